"""Traps and one-way doors: mistakes that cannot be undone.

The states fall into regions, each a chain, grid, mesh or random graph of its own.
Some pairs lead into another region, surely or at a risk, and nothing leads back:
either every other region is a trap below the first, or the regions are levels, which
can only be descended. Regions differ in what they pay, and risky pairs may pay more
than safe ones. Processes without ergodicity, as in safe exploration (Moldovan and
Abbeel, 2012), and in most of them nothing ends.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.prior._process import (
    Process,
    Rng,
    log_uniform,
    places,
    reward_noise,
    start_distribution,
    two_outcomes,
)


def sample(rng: Rng, n_states: int, n_actions: int) -> Process:
    """Draw a process of the family."""
    S, A = n_states, n_actions
    traps = rng.random() < 0.5
    region = _regions(rng, S, traps)
    P = _within_regions(rng, region, A)
    door = _open_doors(rng, P, region, traps)
    R = _rewards(rng, region, door, traps)

    terminal = np.zeros(S, bool)
    if rng.random() < 0.3:
        where = 0 if traps else rng.integers(region[-1] + 1)
        share = log_uniform(rng, 0.02, 0.3)
        terminal = (region == where) & (rng.random(S) < share)
        terminal[0] = False
        R[:, :, terminal] += rng.uniform(-1, 2, terminal.sum())
        R[terminal] = 0.0
        P[terminal] = np.eye(S)[terminal][:, None]
    R *= log_uniform(rng, 0.5, 3) / np.abs(R).max()
    start = start_distribution(rng, (region == 0) & ~terminal)
    if rng.random() < 0.2:
        return Process(P, R, terminal, start, 0.0, two_outcomes(rng, R))
    return Process(P, R, terminal, start, reward_noise(rng, 0.5))


def _regions(rng: Rng, S: int, traps: bool) -> NDArray:
    """Draw the region of each state (S,), ascending; with traps the first is large."""
    n_regions = int(rng.integers(2, min(S, 6) + 1))
    if traps:
        first = 1 + int(rng.uniform(0.4, 1) * (S - n_regions))
        later = first + 1 + rng.choice(S - 1 - first, n_regions - 2, replace=False)
        cuts = np.append(first, later)
    else:
        cuts = 1 + rng.choice(S - 1, n_regions - 1, replace=False)
    region = np.zeros(S, int)
    region[cuts] = 1
    return region.cumsum()


def _within_regions(rng: Rng, region: NDArray, A: int) -> NDArray:
    """Draw P (S, A, S) in which every pair stays in its region."""
    S = len(region)
    size = np.bincount(region)[region]
    first = np.searchsorted(region, region)
    geometry = str(rng.choice(["chain", "grid", "mesh", "random"]))
    if geometry == "random":
        k = min(4, S)
        draw = rng.random((S, A, k))
        to = first[:, None, None] + (draw * size[:, None, None]).astype(int)
    else:
        place = places(rng, geometry, S)
        if geometry == "mesh":
            place = place[place[:, 0].argsort()]
        distance = np.abs(place[:, None] - place).sum(-1)
        distance = distance + 1e6 * (region[:, None] != region)
        k = min({"chain": 3, "grid": 5, "mesh": 6}[geometry], S)
        nearest = distance.argsort(1, kind="stable")[:, :k]
        to = np.broadcast_to(nearest[:, None], (S, A, k))
    inside = region[to] == region[:, None, None]
    # Of the next states inside, in random order, each pair uses the first few.
    rank = (rng.random(to.shape) + ~inside).argsort(-1).argsort(-1)
    most = 1 if rng.random() < 0.35 else k
    weight = rng.standard_gamma(log_uniform(rng, 0.05, 5), to.shape) + 1e-9
    weight *= inside & (rank < rng.integers(1, most + 1, (S, A))[..., None])
    weight /= weight.sum(-1, keepdims=True)
    P = np.zeros((S, A, S))
    np.add.at(P, (np.arange(S)[:, None, None], np.arange(A)[:, None], to), weight)

    if rng.random() < 0.75:  # one pair of every state goes round its region
        step = rng.integers(A, size=S if rng.random() < 0.5 else 1)
        after = first + (np.arange(S) - first + 1) % size
        sure = rng.choice([1.0, rng.uniform(0.3, 1)])
        P[np.arange(S), step] *= 1 - sure
        P[np.arange(S), step, after] += sure
    return P


def _open_doors(rng: Rng, P: NDArray, region: NDArray, traps: bool) -> NDArray:
    """Let some pairs lead to a later region, in ``P``; return which (S, A)."""
    S, A, _ = P.shape
    last = region[-1]
    may = (region == 0) if traps else (region < last)
    door = rng.random((S, A)) < log_uniform(rng, 1 / (S * A), 0.4)
    for r in range(1 if traps else last):  # every region has a way out
        door[rng.choice(np.flatnonzero(region == r)), rng.integers(A)] = True
    door &= may[:, None]
    s, a = np.nonzero(door)
    to = region[s] + 1
    if traps or rng.random() < 0.5:
        to += (rng.random(len(s)) * (last - region[s])).astype(int)
    size = np.bincount(region)
    entry = np.searchsorted(region, to) + (rng.random(len(s)) * size[to]).astype(int)
    kind = rng.random()
    if kind < 0.4:
        risk = np.ones(len(s))
    elif kind < 0.7:
        risk = np.full(len(s), log_uniform(rng, 0.01, 1))
    else:
        risk = np.exp(rng.uniform(np.log(0.01), 0, len(s)))
    P[s, a] *= 1 - risk[:, None]
    P[s, a, entry] += risk
    return door


def _rewards(rng: Rng, region: NDArray, door: NDArray, traps: bool) -> NDArray:
    """Draw mean rewards (S, A, S): regions differ in what they pay."""
    S, A = door.shape
    n_regions = region[-1] + 1
    pay = rng.normal(size=n_regions)
    if traps:
        pay[0] = abs(pay[0])
        pay[1:] = -np.abs(pay[1:]) * (rng.random() < 0.5)  # costly, or just empty
        if rng.random() < 0.4:  # not every one is bad
            pay[rng.integers(1, n_regions)] = rng.uniform(0, 1.5)
    share = log_uniform(rng, 1 / S, 1)
    shape = (S, A, 1) if rng.random() < 0.5 else (S, 1, 1)
    R = np.zeros((S, A, S))
    if rng.random() < 0.85:
        R += pay[region][:, None, None] * (rng.random(shape) < share)
        if rng.random() < 0.3:
            R += 0.3 * rng.normal(size=(S, A, 1))
    if rng.random() < 0.5:  # a far prize
        R[:, :, rng.integers(S)] += log_uniform(rng, 0.5, 3)
    if rng.random() < 0.5:  # what is risky pays now
        R[door] += log_uniform(rng, 0.05, 2)
    if rng.random() < 0.4:  # what is safe pays little
        safe = (rng.random((S, A)) < log_uniform(rng, 1 / S, 0.5)) & ~door
        R[safe] += log_uniform(rng, 0.01, 0.3)
    if rng.random() < 0.2:
        R -= log_uniform(rng, 0.01, 0.3)
    R[rng.integers(S), rng.integers(A)] += rng.uniform(0.05, 1)
    return R
