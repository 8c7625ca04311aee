"""Wet Chicken: paddle close to a waterfall without going over it."""

from __future__ import annotations

import numpy as np

from pretraining.benchmark.process import Environment, Outcome, from_table

_LENGTH, _WIDTH = 5, 5
_MAX_TURBULENCE, _MAX_VELOCITY = 3.5, 3.0
# Drift, hold, paddle back, left, right: change along and across the river.
_ACTIONS = ((0, 0), (-1, 0), (-2, 0), (0, -1), (0, 1))


def wet_chicken(gamma: float) -> Environment:
    """Build the discrete Wet Chicken on 5 x 5 places, as in the SPIBB papers.

    Hans and Udluft (2009); the protocol is that of Scholl et al. (2022, arXiv
    2201.12175 and 2208.00724). State ``5 * x + y``: x is how far down the river the
    canoe is, which is what a step pays, and y how far to the right. The river flows at
    ``3 * y / 5``, with a turbulence uniform on plus or minus 3.5 less that, and the
    sum is rounded to a place. Over the waterfall one starts again at the top left,
    which is no end of the episode.
    """

    def outcomes(x: int, y: int, action: int) -> list[Outcome]:
        along, across = _ACTIONS[action]
        velocity = _MAX_VELOCITY * y / _WIDTH
        turbulence = _MAX_TURBULENCE - velocity
        low = x + along + velocity - turbulence
        high = x + along + velocity + turbulence
        column = min(max(y + across, 0), _WIDTH - 1)
        # Between these cuts lie the values that are rounded to each place.
        cuts = [-np.inf, *np.arange(0.5, _LENGTH - 1), _LENGTH - 0.5, np.inf]
        share = np.diff(np.clip(cuts, low, high)) / (high - low)
        places = [(place, column) for place in range(_LENGTH)] + [(0, 0)]
        return [
            (float(p), place * _WIDTH + to, float(place), False)
            for p, (place, to) in zip(share, places, strict=True)
            if p > 0
        ]

    table = [
        [outcomes(x, y, a) for a in range(len(_ACTIONS))]
        for x in range(_LENGTH)
        for y in range(_WIDTH)
    ]
    return from_table("WetChicken-5x5", table, np.eye(_LENGTH * _WIDTH)[0], gamma)
