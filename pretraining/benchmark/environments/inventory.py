"""Inventory control with lost sales and a heavy penalty for each."""

from __future__ import annotations

import numpy as np
from scipy.stats import poisson

from pretraining.benchmark.process import Environment, Outcome, from_table

_MEAN_DEMAND = 5.0
_HOLDING_COST = 1.0


def lost_sales(
    n_stock: int, max_order: int, penalty: float, gamma: float
) -> Environment:
    """Order for the next day, before the demand of today is known.

    The test bed of Zipkin (2008, "Old and new methods for lost-sales inventory
    systems", Operations Research 56) with a lead time of one period: demand is Poisson
    with mean 5, an item left over costs 1, and a sale that is lost costs `penalty`,
    39 at the most there. The state is the stock after yesterday's order has come in,
    0 to `n_stock` - 1, and the action is the order, 0 to `max_order`. What does not
    fit is returned for free. It starts empty and goes on for ever.

    Parameters
    ----------
    n_stock : int
        Number of states.
    max_order : int
        One less than the number of actions.
    penalty : float
        Cost of a lost sale.
    gamma : float
        Discount factor in [0, 1).
    """
    # All demands that leave less than 1e-12 to those above.
    demands = np.arange(int(poisson.isf(1e-12, _MEAN_DEMAND)) + 1)
    prob = poisson.pmf(demands, _MEAN_DEMAND)
    prob /= prob.sum()

    def outcomes(stock: int, order: int) -> list[Outcome]:
        return [
            (
                float(p),
                min(max(stock - int(demand), 0) + order, n_stock - 1),
                -_HOLDING_COST * max(stock - int(demand), 0)
                - penalty * max(int(demand) - stock, 0),
                False,
            )
            for demand, p in zip(demands, prob, strict=True)
        ]

    table = [[outcomes(s, a) for a in range(max_order + 1)] for s in range(n_stock)]
    return from_table("inventory", table, np.eye(n_stock)[0], gamma)
