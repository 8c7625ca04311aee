"""Operations research: queues, inventories, maintenance and harvests.

The textbook problems of Puterman (1994), chapters 3 and 4: states are amounts in
their natural order, actions are rates or quantities in theirs, and every price,
rate and distribution is random. Some end where the line overflows, the machine
fails, the shelf is empty or the stock is extinct.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.prior._process import (
    Process,
    Rng,
    log_uniform,
    reward_noise,
    start_distribution,
)

# P (S, A, S), R that broadcasts to it, and which actions each state has (S, A)
Problem = tuple[NDArray, NDArray, NDArray]


def sample(rng: Rng, n_states: int, n_actions: int) -> Process:
    """Draw a process of the family."""
    S, A = n_states, n_actions
    problem, end = [(queue, -1), (maintenance, -1), (inventory, 0), (harvest, 0)][
        rng.integers(4)
    ]
    P, reward, allowed = problem(rng, S, A)
    R = np.empty((S, A, S))
    R[:] = reward
    R /= np.abs((P * R).sum(-1)).max()
    terminal = np.zeros(S, bool)
    if S > 2 and rng.random() < 0.25:
        terminal[end] = True
        if rng.random() < 0.5:  # what a step in operation earns
            R += log_uniform(rng, 0.1, 1)
        else:
            R[:, :, end] -= log_uniform(rng, 0.3, 30)

    scale = log_uniform(rng, 0.5, 2)
    R *= scale / (np.abs((P * R).sum(-1)[~terminal]).max() or 1.0)
    P[terminal] = np.eye(S)[terminal][:, None]
    R[terminal] = 0.0
    start = start_distribution(rng, ~terminal)
    noise = reward_noise(rng, 0.3 * scale)
    if allowed.all():
        return Process(P, R, terminal, start, noise)
    # An action that a state lacks is a copy of the first that it has.
    instead = np.where(allowed, np.arange(A), allowed.argmax(1)[:, None])
    at = np.arange(S)[:, None], instead
    return Process(P[at], R[at], terminal, start, noise, allowed=allowed)


def queue(rng: Rng, S: int, A: int) -> Problem:
    """Draw a queue: faster service costs more, or a higher fee brings fewer.

    The state is the number in the system; a customer may leave, then some arrive.
    """
    stay = np.eye(S)
    if rng.random() < 0.6:
        p = rng.uniform(0.05, 0.95)
        arrivals = np.zeros(S)
        arrivals[:2] = 1 - p, p
    else:
        arrivals = _amounts(rng, S, log_uniform(rng, 0.1, 1))
    grow = _minus(arrivals)[::-1, ::-1]
    fewer = np.maximum(np.arange(S) - 1, 0)
    moves = np.stack([stay, stay[fewer], grow, grow[fewer]], 1)  # (S, 4, S)
    service, admitted = np.full(A, rng.uniform(0.05, 1)), np.ones(A)
    if rng.random() < 0.6:
        service = np.sort(rng.random(A))
        pay = -log_uniform(rng, 0.05, 2) * service ** rng.uniform(1, 4)
        busy = np.arange(S) > 0
        income = np.outer(busy | (rng.random() < 0.5), pay)
    else:
        admitted = np.sort(rng.random(A))
        admitted[0] = 0.0
        fee = np.sort(rng.random(A))[::-1]
        room = np.arange(S) < S - 1
        income = log_uniform(rng, 0.05, 2) * np.outer(room, admitted * fee)
    odds = np.stack(
        [
            (1 - admitted) * (1 - service),
            (1 - admitted) * service,
            admitted * (1 - service),
            admitted * service,
        ],
        1,
    )
    holding = _fraction(S) ** (1.0 if rng.random() < 0.5 else rng.uniform(1, 3))
    R = income[..., None] - holding[:, None, None]
    if rng.random() < 0.3:
        full = np.arange(S) == S - 1
        R = R - log_uniform(rng, 0.3, 10) * full
    return odds @ moves, R, np.ones((S, A), bool)


def inventory(rng: Rng, S: int, A: int) -> Problem:
    """Draw an inventory with lost sales: the action is how much to order.

    Orders arrive at once; what has no room is not delivered, or cannot be ordered.
    """
    stock, order = np.arange(S), _levels(rng, S, A)
    fits = stock[:, None] + order < S
    allowed = fits if rng.random() < 0.5 else np.ones_like(fits)
    after = np.minimum(stock[:, None] + order, S - 1)  # (S, A)
    ordered = after - stock[:, None]
    demand = _amounts(rng, S, log_uniform(rng, 0.3, max(S / 2, 1)))
    left = _minus(demand)
    P = left[after]

    price = 1.0 if rng.random() < 0.7 else 0.0
    cost = log_uniform(rng, 0.05, 1)
    fixed = log_uniform(rng, 0.1, 1) * S / 4 if rng.random() < 0.5 else 0.0
    holding = log_uniform(rng, 0.005, 0.5)
    lost_sale = log_uniform(rng, 0.1, 10) if price == 0 or rng.random() < 0.5 else 0.0
    # Expected lost sales where the shelf empties: E[max(D - y, 0) | D >= y].
    excess = np.maximum(stock - stock[:, None], 0) @ demand / (left[:, 0] + 1e-12)
    spent = cost * ordered + fixed * (ordered > 0)
    lost = lost_sale * excess[after][..., None] * (stock == 0)
    sold = np.maximum(after[..., None] - stock, 0)
    R = price * sold - spent[..., None] - holding * stock - lost
    if rng.random() < 0.5:  # the books are made up by pair
        R = (P * R).sum(-1, keepdims=True)
    return P, R, allowed


def maintenance(rng: Rng, S: int, A: int) -> Problem:
    """Draw a machine that wears: keep it, repair it by some levels, or replace it."""
    wear = np.arange(S)
    removed = np.rint((S - 1) * np.linspace(0, 1, A) ** rng.uniform(0.7, 3))
    after = np.maximum(wear[:, None] - removed.astype(int), 0)
    mean = log_uniform(rng, 0.05, max(S / 6, 0.5))
    worsen = _minus(_amounts(rng, S, mean))[::-1, ::-1]
    P = worsen[after]
    if rng.random() < 0.5:  # no wear while at work on it
        P[:, 1:] = np.eye(S)[after[:, 1:]]
    if rng.random() < 0.4:  # repair, not replacement, may be in vain
        P[:, 1:-1] += rng.uniform(0, 0.7) * (worsen[:, None] - P[:, 1:-1])

    price = log_uniform(rng, 0.1, 10) * _fraction(A) ** rng.uniform(0.3, 2)
    price[1:] += rng.random() * log_uniform(rng, 0.05, 2)
    running = _fraction(S) ** rng.uniform(0.5, 4)
    R = -running[:, None, None] - price[:, None]
    if rng.random() < 0.6:
        R = R - log_uniform(rng, 0.5, 20) * (wear == S - 1)
    return P, R, np.ones((S, A), bool)


def harvest(rng: Rng, S: int, A: int) -> Problem:
    """Draw a stock that grows at random, a forest or a fishery: how much to take."""
    stock, wanted = np.arange(S), _levels(rng, S, A)
    enough = wanted <= stock[:, None]
    allowed = enough if rng.random() < 0.5 else np.ones_like(enough)
    after = np.maximum(stock[:, None] - wanted, 0)
    taken = stock[:, None] - after
    if rng.random() < 0.4:  # one step of age, or none
        p = rng.uniform(0.2, 1)
        grow = (1 - p) * np.eye(S) + p * np.eye(S)[np.minimum(stock + 1, S - 1)]
    else:  # logistic growth with a little immigration
        growth = log_uniform(rng, 0.05, 2) * stock * (1 - _fraction(S))
        mean = np.minimum(stock + growth + log_uniform(rng, 0.05, 2), S - 1)
        spread = log_uniform(rng, 0.2, max(S / 8, 0.5))
        exponent = -0.5 * ((stock - mean[:, None]) / spread) ** 2
        grow = np.exp(exponent - exponent.max(1, keepdims=True))
        grow /= grow.sum(1, keepdims=True)
    if rng.random() < 0.6:  # a fire or an epidemic leaves nothing
        disaster = log_uniform(rng, 0.005, 0.4)
        grow *= 1 - disaster
        grow[:, 0] += disaster
    income = (taken / (S - 1)) ** rng.uniform(0.3, 1)
    if rng.random() < 0.3:
        income -= log_uniform(rng, 0.01, 0.5) * (taken > 0)
    if rng.random() < 0.3:  # a stock has a worth of its own
        income += log_uniform(rng, 0.01, 0.5) * _fraction(S)[:, None]
    return grow[after], income[..., None], allowed


def _fraction(n: int) -> NDArray:
    """Return 0 to 1 in n steps."""
    return np.linspace(0, 1, n)


def _levels(rng: Rng, S: int, A: int) -> NDArray:
    """Draw the quantity that each action means, from none up, (A,) of int."""
    top = rng.integers(min(A, S) - 1, S)
    return np.rint(np.linspace(0, top, A)).astype(int)


def _amounts(rng: Rng, S: int, mean: float) -> NDArray:
    """Draw the distribution of an amount 0..S-1: geometric, Poisson or binomial.

    It has about the given mean; what lies beyond S-1 is left out.
    """
    k = np.arange(1, S)
    kind = rng.integers(3)
    if kind == 0:
        ratio = np.full(S - 1, mean / (1 + mean))
    elif kind == 1:
        ratio = mean / k
    else:
        n = int(np.ceil(mean * rng.uniform(1.2, 4)))
        ratio = np.maximum(n - k + 1, 0) / k * (mean / max(n - mean, 0.1))
    log_odds = np.cumsum(np.log(np.append(1.0, ratio) + 1e-300))
    odds = np.exp(log_odds - log_odds.max())
    return odds / odds.sum()


def _minus(amount: NDArray) -> NDArray:
    """Return the distribution (S, S) of max(y - amount, 0) for each y."""
    S = len(amount)
    left = np.arange(S)[:, None] - np.arange(S)
    rows = np.where(left >= 0, amount[left], 0.0)
    rows[:, 0] = amount[::-1].cumsum()[::-1]
    return rows
