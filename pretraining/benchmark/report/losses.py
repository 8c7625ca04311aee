"""Where tabrl loses, the largest losses first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pretraining.benchmark.report.intervals import Estimate, cell_draws, interval
from pretraining.benchmark.report.scores import Scores, is_tabrl
from pretraining.benchmark.report.table import Table, table

_N_SHOWN = 15

# Method, place, strongest peer, our mean, its mean, loss with its interval.
Loss = tuple[str, tuple[Any, ...], str, float, float, Estimate]


def find_losses(
    groups: Sequence[Scores], keys: Sequence[str], tie: float = 1e-3
) -> list[Loss]:
    """Find where a peer is better than tabrl beyond the interval.

    Parameters
    ----------
    groups : sequence of Scores
        All scores. Constants of peers are those chosen in hindsight.
    keys : sequence of str
        What makes a place, ``("environment", "behaviour")`` say. The score of a
        place is the mean over its cells.
    tie : float, default=1e-3
        A loss counts where the whole interval of the difference, seed by seed, is
        beyond that.

    Returns
    -------
    list
        For each policy of tabrl and place with a loss, the one to the peer that is
        the farthest ahead; the largest loss first.
    """
    losses: list[Loss] = []
    for scores in groups:
        ours = [name for name in scores.methods if is_tabrl(name)]
        peers = [n for n in scores.methods + scores.partial if not is_tabrl(n)]
        for name in ours:
            worst: dict[tuple[Any, ...], Loss] = {}
            for peer in peers:
                for loss in _losses_to(scores, name, peer, keys, tie):
                    place = loss[1]
                    if place not in worst or loss[-1][0] > worst[place][-1][0]:
                        worst[place] = loss
            losses += worst.values()
    losses.sort(key=lambda loss: -loss[-1][0])
    return losses


def _losses_to(
    scores: Scores, name: str, peer: str, keys: Sequence[str], tie: float
) -> list[Loss]:
    index = [scores.keys.index(key) for key in keys]
    cells, x, y = scores.common(name, peer)
    # Positive where the peer is better.
    loss = scores.sign * (y - x)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, cell in enumerate(cells):
        groups.setdefault(tuple(cell[k] for k in index), []).append(i)
    found: list[Loss] = []
    for place, members in groups.items():
        value = float(loss[members].mean())
        if value <= tie:
            continue
        low, high = interval(np.stack([cell_draws(loss[i], cells[i]) for i in members]))
        if low > tie:
            means = float(x[members].mean()), float(y[members].mean())
            found.append((name, place, peer, *means, [value, low, high]))
    return found


def loss_table(
    groups: Sequence[Scores],
    keys: Sequence[str],
    caption: str,
    digits: int = 3,
    least_size: int = 0,
) -> Table:
    """Set out the largest losses.

    Parameters
    ----------
    groups, keys
        See `find_losses`.
    caption : str
        What is scored.
    digits : int, default=3
        Decimals of the scores.
    least_size : int, default=0
        Entries of smaller logs are left out; `keys` must have "size" then.
    """
    losses = find_losses(groups, keys, 10**-digits)
    index = [groups[0].keys.index(key) for key in keys]
    places = {
        tuple(cell[i] for i in index) for scores in groups for cell in scores.cells
    }
    if least_size:
        size = keys.index("size")
        losses = [loss for loss in losses if loss[1][size] >= least_size]
        places = {place for place in places if place[size] >= least_size}
    ours = [name for name in groups[0].methods if is_tabrl(name)]
    counts = ", ".join(
        f"{sum(loss[0] == name for loss in losses)} of {len(places)} for {name}"
        for name in ours
    )
    kind = " x ".join(keys)
    shown = losses[:_N_SHOWN]
    return table(
        f"Where tabrl loses. {caption} An entry is one {kind} in which a method, its "
        "constant chosen in hindsight, is better beyond the 95% interval of the "
        f"difference: {counts}. The {len(shown)} largest losses, each to the method "
        "that is the farthest ahead.",
        ["method", *keys, "loses to", "mean", "mean of the other", "loss"],
        [
            [name, *_texts(place), peer, mean, theirs, loss]
            for name, place, peer, mean, theirs, loss in shown
        ],
        digits,
    )


def _texts(place: tuple[Any, ...]) -> list[str]:
    return [f"{value:,}" if isinstance(value, int) else str(value) for value in place]
