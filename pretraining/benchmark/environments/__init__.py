"""The environments of the benchmark, by name.

A new environment is a file of its own in this folder and one line here. The project was
developed on those of `ENVIRONMENT_NAMES`. Those of `FOREIGN_NAMES` come from packages
and publications; nothing was chosen by results on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np

from pretraining.benchmark.environments.anymdp import anymdp
from pretraining.benchmark.environments.bandit import bernoulli_bandit
from pretraining.benchmark.environments.blackjack import blackjack
from pretraining.benchmark.environments.deep_sea import deep_sea
from pretraining.benchmark.environments.forest import forest
from pretraining.benchmark.environments.gambler import gambler
from pretraining.benchmark.environments.garnet import garnet
from pretraining.benchmark.environments.grids import (
    gridworld,
    slippery_lake,
    two_room_maze,
)
from pretraining.benchmark.environments.inventory import lost_sales
from pretraining.benchmark.environments.lakes import (
    lake_with_costly_hole,
    random_lake,
)
from pretraining.benchmark.environments.queueing import admission_queue
from pretraining.benchmark.environments.random_mdp import random_mdp
from pretraining.benchmark.environments.river_swim import river_swim
from pretraining.benchmark.environments.sepsis import icu_sepsis
from pretraining.benchmark.environments.taxi import taxi_with_fine
from pretraining.benchmark.environments.toy_text import toy_text
from pretraining.benchmark.environments.wet_chicken import wet_chicken
from pretraining.benchmark.process import EPISODE_STEPS, Environment

__all__ = [
    "DEVELOPMENT",
    "ENVIRONMENT_NAMES",
    "FOREIGN",
    "FOREIGN_NAMES",
    "bernoulli_bandit",
    "environment",
    "environments",
    "forest",
    "garnet",
    "names",
    "register",
]

DEVELOPMENT, FOREIGN = "development", "foreign"


@dataclass(frozen=True)
class _Entry:
    build: Callable[..., Environment]
    group: str
    steps: int
    family: bool


_REGISTRY: dict[str, _Entry] = {}


def register(
    name: str,
    build: Callable[..., Environment],
    *,
    group: str = FOREIGN,
    steps: int = EPISODE_STEPS,
    family: bool = False,
) -> None:
    """Make an environment known by its name.

    Parameters
    ----------
    name : str
        Its name in every table.
    build : callable
        Takes gamma, and in a family the seed as well, to an `Environment`.
    group : {"foreign", "development"}, default="foreign"
        Whether the project was developed on it.
    steps : int, default=50
        Steps after which an online episode is truncated.
    family : bool, default=False
        Whether the seed picks the process.

    Raises
    ------
    ValueError
        If the name is taken.
    """
    if name in _REGISTRY:
        raise ValueError(f"Names of environments must differ. Got {name!r} twice.")
    _REGISTRY[name] = _Entry(build, group, steps, family)


def names(group: str) -> tuple[str, ...]:
    """Names of the environments of a group, in the order of registration."""
    return tuple(name for name, entry in _REGISTRY.items() if entry.group == group)


def environment(name: str, gamma: float, seed: int = 0) -> Environment:
    """Build an environment.

    Parameters
    ----------
    name : str
        A registered name.
    gamma : float
        Discount factor in [0, 1).
    seed : int, default=0
        Picks the process of a family; ignored by all others.

    Returns
    -------
    Environment
        The same object for the same arguments, as long as it is in the cache.

    Raises
    ------
    ValueError
        If there is no such environment.
    ModuleNotFoundError
        If the package that the environment comes from is not installed.
    """
    if name not in _REGISTRY:
        known = ", ".join(_REGISTRY)
        raise ValueError(f"The environment must be one of {known}. Got {name!r}.")
    return _build(name, gamma, seed if _REGISTRY[name].family else 0)


# A family has 100 tasks, and four families are scored one after another.
@lru_cache(maxsize=512)
def _build(name: str, gamma: float, seed: int) -> Environment:
    entry = _REGISTRY[name]
    env = entry.build(gamma, seed) if entry.family else entry.build(gamma)
    return replace(env, name=name, seed=seed, episode_steps=entry.steps)


def environments(gamma: float) -> list[Environment]:
    """Build all development environments at the discount `gamma`."""
    return [environment(name, gamma) for name in ENVIRONMENT_NAMES]


_develop = partial(register, group=DEVELOPMENT)
_develop("gridworld-3x3", partial(gridworld, 3))
_develop("gridworld-5x5", partial(gridworld, 5))
_develop("slippery-lake", slippery_lake)
# Steps are those of gymnasium where it has a limit.
_develop("FrozenLake-v1", partial(toy_text, "FrozenLake-v1"), steps=100)
_develop(
    "FrozenLake-v1-not-slippery",
    partial(toy_text, "FrozenLake-v1", is_slippery=False),
    steps=100,
)
_develop("FrozenLake8x8-v1", partial(toy_text, "FrozenLake8x8-v1"), steps=200)
_develop("CliffWalking-v1", partial(toy_text, "CliffWalking-v1"))
_develop("Taxi-v4", partial(toy_text, "Taxi-v4"), steps=200)
_develop("two-rooms", two_room_maze)
_develop("RiverSwim-6", partial(river_swim, 6))
_develop("RiverSwim-12", partial(river_swim, 12))
_develop("DeepSea-6", partial(deep_sea, 6))
_develop("DeepSea-10", partial(deep_sea, 10))
_develop("DeepSea-20", partial(deep_sea, 20))
_develop("DeepSea-30", partial(deep_sea, 30))
_develop("DeepSea-50", partial(deep_sea, 50))
_develop("Garnet-20-4-3", partial(garnet, 20, 4, 3))
_develop("Garnet-50-4-4", partial(garnet, 50, 4, 4))
_develop("Garnet-200-8-5", partial(garnet, 200, 8, 5))
_develop("forest-10", partial(forest, 10))
_develop(
    "bandit-10", partial(bernoulli_bandit, np.random.default_rng(0).random(10).tolist())
)

register("ICU-Sepsis-v2", icu_sepsis, steps=500)  # the package's limit
register("Blackjack-v1", blackjack)
register("Taxi-v4-fine-100", partial(taxi_with_fine, 100.0), steps=200)
register("Taxi-v4-fine-1000", partial(taxi_with_fine, 1000.0), steps=200)
register("Taxi-v4-fine-10000", partial(taxi_with_fine, 10000.0), steps=200)
register("FrozenLake-v1-hole-100", partial(lake_with_costly_hole, 100.0), steps=100)
register("FrozenLake-v1-random-8x8", partial(random_lake, 8), steps=200, family=True)
register(
    "CliffWalking-v1-slippery",
    partial(toy_text, "CliffWalking-v1", is_slippery=True),
    steps=200,  # slipping back makes the way longer
)
# From empty, the best stock takes an order of 15; 31 places are never full under it.
register("inventory-31", partial(lost_sales, 31, 15, 39.0))
register("queue-21", partial(admission_queue, 20))
register("WetChicken-5x5", wet_chicken)
register("RandomMDP-50-4", random_mdp, family=True)
register("AnyMDP-16", partial(anymdp, 16), steps=100, family=True)
register("AnyMDP-32", partial(anymdp, 32), steps=100, family=True)
register("AnyMDP-64", partial(anymdp, 64), steps=100, family=True)
register("AnyMDP-128", partial(anymdp, 128), steps=100, family=True)
register("gambler-100", partial(gambler, 100), steps=100)

ENVIRONMENT_NAMES = names(DEVELOPMENT)
FOREIGN_NAMES = names(FOREIGN)
