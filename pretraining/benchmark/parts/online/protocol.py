"""Which cells the online benchmark has.

A cell is a method with its constant in an environment with a seed, for a part of the
protocol:

- ``regret``: a fixed number of episodes at gamma 0.99;
- ``convergence``: the protocol of arXiv 2606.18812, at gamma 0.95 until solved, which
  is 0.95 of the optimal value from the start (not of what the optimum has above the
  uniform policy, as in the other parts);
- ``deep sea``: until solved, by the size of the sea.
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
    dqn: bool = False
    checkpoint: str | None = "auto"
    baselines: bool = True
    seed_model: str | None = None
    seed: int = 0

    def cells(self) -> list[Row]:
        """Parameters of each cell."""
        dqn = [(DQN, None)] if self.dqn else []
        groups: list[tuple] = [
            (
                *("regret", 0.99, self.environments, self.tuned("regret")),
                *(self.n_seeds, self.n_episodes),
            ),
            ("regret", 0.99, DQN_ENVIRONMENTS, dqn, DQN_SEEDS, self.n_episodes),
            (
                *("convergence", 0.95, CONVERGENCE_ENVIRONMENTS),
                self.tuned("convergence"),
                *(self.convergence_seeds, self.convergence_episodes),
            ),
        ]
        deep = self.tuned("deep sea")
        groups += [
            ("deep sea", 0.99, [f"DeepSea-{n}"], deep, self.size_seeds, 40 * n)
            for n in self.sizes
        ]
        return [
            {
                "part": part,
                "gamma": gamma,
                "environment": name,
                "method": method,
                "constant": constant,
                "episodes": n_episodes,
                "seed": self.seed + i,
            }
            for part, gamma, names, chosen, n_seeds, n_episodes in groups
            for name, (method, constant), i in product(names, chosen, range(n_seeds))
        ]

    def tuned(self, part: str) -> list[tuple[str, float | None]]:
        """Return the methods of a part, each with each of its constants."""
        return [
            (learner.name, constant)
            for learner in self.learners()
            if part in learner.parts
            for constant in learner.constants
        ]

    def learners(self) -> list[type[Learner]]:
        """Return the methods that have what they need.

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
            if (self.baselines or not learner.is_baseline)
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
)
