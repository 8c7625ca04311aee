"""Record ``frozenlake_random.csv``: slippery FrozenLake-v1, random policy, seed 0.

Run it with the `gym` extra installed: ``python examples/data/record_frozenlake.py``.
"""

from __future__ import annotations

import csv
from pathlib import Path

import gymnasium

N_TRANSITIONS = 4_000
SEED = 0
COLUMNS = (
    "episode",
    "step",
    "state",
    "action",
    "reward",
    "next_state",
    "terminated",
    "truncated",
)


def main() -> None:
    """Write the log beside this script."""
    env = gymnasium.make("FrozenLake-v1", is_slippery=True)
    env.action_space.seed(SEED)
    state, _ = env.reset(seed=SEED)
    episode = step = 0
    path = Path(__file__).with_name("frozenlake_random.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        # Plain \n on every system, so that the file is the same byte for byte.
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for _ in range(N_TRANSITIONS):
            action = env.action_space.sample()
            next_state, reward, terminated, truncated, _ = env.step(action)
            writer.writerow(
                (
                    episode,
                    step,
                    state,
                    action,
                    float(reward),
                    next_state,
                    bool(terminated),
                    bool(truncated),
                )
            )
            state, step = next_state, step + 1
            if terminated or truncated:
                state, _ = env.reset()
                episode, step = episode + 1, 0


if __name__ == "__main__":
    main()
