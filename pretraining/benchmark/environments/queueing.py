"""A queue with admission control and two speeds of service."""

from __future__ import annotations

import numpy as np

from pretraining.benchmark.process import Environment, Outcome, from_table

# Chances of an arrival and of a completed service in a slot. Slow service cannot keep
# up with all arrivals, fast service can.
_ARRIVAL, _SLOW, _FAST = 0.5, 0.4, 0.7
# A customer admitted pays 5; each in the system costs 0.2 a slot, and speed 1 a slot:
# the optimum then changes speed and stops admission within the queue, not at its ends.
_FEE, _HOLDING_COST, _SPEED_COST = 5.0, 0.2, 1.0


def admission_queue(n_places: int, gamma: float) -> Environment:
    """Admit or reject, serve slowly or fast, by the number of customers.

    The discrete-time queue of Puterman (1994, sections 3.7.1 and 3.7.2), with the two
    decisions of these sections made together. In a slot, one customer may arrive and
    one, if any was there, may be served. Actions: reject and slow, reject and fast,
    admit and slow, admit and fast. A full system rejects. It starts empty and goes on
    for ever.

    Parameters
    ----------
    n_places : int
        Most customers in the system; there are `n_places` + 1 states.
    gamma : float
        Discount factor in [0, 1).
    """

    def outcomes(waiting: int, action: int) -> list[Outcome]:
        admits, fast = divmod(action, 2)
        served = (_FAST if fast else _SLOW) if waiting else 0.0
        cost = _HOLDING_COST * waiting + _SPEED_COST * fast
        results: list[Outcome] = []
        for arrives, p in ((1, _ARRIVAL), (0, 1 - _ARRIVAL)):
            for leaves, q in ((1, served), (0, 1 - served)):
                after = waiting - leaves
                enters = int(arrives and admits and after < n_places)
                results.append((p * q, after + enters, _FEE * enters - cost, False))
        return [outcome for outcome in results if outcome[0] > 0]

    table = [[outcomes(s, a) for a in range(4)] for s in range(n_places + 1)]
    return from_table("queue", table, np.eye(n_places + 1)[0], gamma)
