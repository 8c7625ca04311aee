"""Bandit methods: one file with one class a method, registered here in one line.

An index policy derives from `IndexPolicy` and says its `name` and its `index`; then
add it to the calls of `register` below.
"""

from pretraining.benchmark.baselines.bandit.bayes_ucb import BayesUCB
from pretraining.benchmark.baselines.bandit.method import BanditMethod, IndexPolicy
from pretraining.benchmark.baselines.bandit.tabrl_agent import Tabrl
from pretraining.benchmark.baselines.bandit.thompson import Thompson
from pretraining.benchmark.baselines.bandit.ucb1 import UCB1

__all__ = [
    "BANDITS",
    "UCB1",
    "BanditMethod",
    "BayesUCB",
    "IndexPolicy",
    "Tabrl",
    "Thompson",
    "register",
]

# By name, in the order of the cells.
BANDITS: dict[str, type[BanditMethod]] = {}


def register(method: type[BanditMethod]) -> None:
    """Add a method with a `name` of its own to those that the benchmark can run.

    Raises
    ------
    ValueError
        If the name is taken.
    """
    if method.name in BANDITS:
        raise ValueError(f"Each method must have its own name. Got {method.name!r}.")
    BANDITS[method.name] = method


register(Tabrl)
register(BayesUCB)
register(Thompson)
register(UCB1)
