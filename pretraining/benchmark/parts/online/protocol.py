"""Which cells the online benchmark has.

A cell is a method with its constant in an environment with a seed, for a part of the
protocol:

- ``regret``: a fixed number of episodes at gamma 0.99;
- ``convergence``: the protocol of arXiv 2606.18812, at gamma 0.95 until solved, which
  is 0.95 of the optimal value from the start (not of what the optimum has above the
  uniform policy, as in the other parts);
- ``deep sea``: until solved, by the size of the sea;
- ``foreign``: as ``regret``, in worlds that nobody here drew; where the seed picks the
  process, each run is in another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from pretraining.benchmark.baselines.online import LEARNERS, Learner
from pretraining.benchmark.baselines.online.dqn import DQN
from pretraining.benchmark.cells import Row

ENVIRONMENTS = (
    *("gridworld-3x3", "gridworld-5x5", "slippery-lake"),
    *("FrozenLake-v1", "FrozenLake-v1-not-slippery", "FrozenLake8x8-v1"),
    *("CliffWalking-v1", "two-rooms", "forest-10"),
    *("RiverSwim-6", "RiverSwim-12", "DeepSea-6", "DeepSea-10", "DeepSea-20"),
    *("Garnet-20-4-3", "Garnet-50-4-4"),
)
# Worlds that nobody here drew, where 300 episodes are enough to learn something. Left
# out: sepsis (17,900 pairs, of which 300 episodes try a sixth at most), Blackjack (560
# pairs, one or two steps an episode), Taxi (3,000 pairs, and each fine must be paid to
# be known), AnyMDP of 64 and 128 states (a run of tabrl takes over a minute).
FOREIGN_ENVIRONMENTS = (
    *("FrozenLake-v1-hole-100", "FrozenLake-v1-random-8x8"),
    *("CliffWalking-v1-slippery", "inventory-31", "queue-21", "WetChicken-5x5"),
    *("RandomMDP-50-4", "AnyMDP-16", "AnyMDP-32"),
)
CONVERGENCE_ENVIRONMENTS = ("gridworld-3x3", "gridworld-5x5", "slippery-lake")
DQN_ENVIRONMENTS = ("gridworld-3x3", "FrozenLake-v1", "DeepSea-6")
DQN_SEEDS, DQN_EVERY = 3, 5


@dataclass(frozen=True)
class Protocol:
    """What the online benchmark runs.

    Parameters
    ----------
    environments : sequence of str
        Names of the environments of the regret part.
    methods : sequence of str
        Names of `LEARNERS`, all of them by default.
    n_seeds, n_episodes : int
        Runs and episodes of the regret part.
    convergence_seeds : int
        Runs of the convergence part, of at most `convergence_episodes`.
    convergence_episodes : int
        See above.
    sizes : sequence of int
        Of the deep sea; a run lasts at most 40 episodes a row of it.
    size_seeds : int
        Runs of the deep sea part.
    foreign : sequence of str
        Names of the environments of the foreign part.
    foreign_seeds : int
        Runs of the foreign part, of `n_episodes`.
    dqn : bool
        Whether to run DQN of stable-baselines3, on `DQN_ENVIRONMENTS` with `DQN_SEEDS`
        seeds.
    checkpoint : str or None
        What `OnlineAgent` takes; None leaves tabrl out.
    baselines : bool
        Whether to run what is not tabrl.
    seed_model : str or None
        Folder of `pretraining.benchmark.baselines.seed_model`; None leaves that out.
    seed : int
        Seed of the first run; the others follow.
    """

    environments: Sequence[str] = ENVIRONMENTS
    methods: Sequence[str] = field(default_factory=lambda: tuple(LEARNERS))
    n_seeds: int = 20
    n_episodes: int = 300
    convergence_seeds: int = 12
    convergence_episodes: int = 2000
    sizes: Sequence[int] = (6, 10, 20, 30, 50)
    size_seeds: int = 3
    foreign: Sequence[str] = FOREIGN_ENVIRONMENTS
    foreign_seeds: int = 10
    dqn: bool = False
    checkpoint: str | None = "auto"
    baselines: bool = True
    seed_model: str | None = None
    seed: int = 0

    def cells(self) -> list[Row]:
        """Parameters of each cell."""
        cells = self._part("regret", 0.99, self.environments, self.n_seeds)
        if self.dqn:
            runs = product(DQN_ENVIRONMENTS, range(DQN_SEEDS))
            cells += [
                self._cell("regret", 0.99, name, DQN, None, i) for name, i in runs
            ]
        cells += self._part(
            "convergence",
            0.95,
            CONVERGENCE_ENVIRONMENTS,
            self.convergence_seeds,
            self.convergence_episodes,
        )
        for n in self.sizes:
            name = f"DeepSea-{n}"
            cells += self._part("deep sea", 0.99, [name], self.size_seeds, 40 * n)
        return cells + self._part("foreign", 0.99, self.foreign, self.foreign_seeds)

    def _part(
        self,
        part: str,
        gamma: float,
        environments: Sequence[str],
        n_seeds: int,
        n_episodes: int | None = None,
    ) -> list[Row]:
        """Cells of a part: of each environment, method, constant and seed."""
        return [
            self._cell(part, gamma, name, learner.name, constant, i, n_episodes)
            for name, learner in product(environments, self.learners(part))
            if learner.environments is None or name in learner.environments
            for constant in learner.constants
            for i in range(min(n_seeds, learner.max_seeds or n_seeds))
        ]

    def _cell(
        self,
        part: str,
        gamma: float,
        environment: str,
        method: str,
        constant: float | None,
        run: int,
        n_episodes: int | None = None,
    ) -> Row:
        return {
            "part": part,
            "gamma": gamma,
            "environment": environment,
            "method": method,
            "constant": constant,
            "episodes": self.n_episodes if n_episodes is None else n_episodes,
            "seed": self.seed + run,
        }

    def learners(self, part: str) -> list[type[Learner]]:
        """Return the methods of a part that have what they need.

        Raises
        ------
        ValueError
            If a method is not registered.
        """
        unknown = [name for name in self.methods if name not in LEARNERS]
        if unknown:
            raise ValueError(
                f"Methods must be registered. Got {unknown[0]!r}; there are "
                f"{', '.join(LEARNERS)}."
            )
        return [
            learner
            for learner in (LEARNERS[name] for name in self.methods)
            if part in learner.parts
            and (self.baselines or not learner.is_baseline)
            and all(getattr(self, name) is not None for name in learner.needs)
        ]


QUICK = Protocol(
    environments=("gridworld-5x5", "FrozenLake-v1", "RiverSwim-6", "DeepSea-6"),
    n_seeds=2,
    n_episodes=60,
    convergence_seeds=2,
    convergence_episodes=100,
    sizes=(6, 10),
    size_seeds=2,
    foreign=(),
)
