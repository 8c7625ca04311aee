"""
From a log to a policy
======================

This example learns a policy for FrozenLake from a log of 4,000 random steps. Learning
needs only the log. The environment is used afterwards, to check the result: its true
probabilities are known, so the value of a policy can be computed exactly.
"""

# %%
# The log is a table with one transition per row. The ice is slippery: a third of the
# moves go in the chosen direction, the others to its left or right. Only the goal pays
# a reward. Nearly every episode ends in a hole; 11 of 502 reach the goal.

from pathlib import Path

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from tabrl import OfflinePolicyEstimator

GAMMA = 0.99

log = pd.read_csv(Path(__file__).parent / "data" / "frozenlake_random.csv")
print(log.head(3).to_string(index=False))
print(
    f"\n{len(log)} transitions of {log['episode'].nunique()} episodes, of which "
    f"{int(log['reward'].sum())} reached the goal.\n"
)

# %%
# `fit` reads the statistics of the log and plans. It does not train anything. Holes and
# the goal end an episode, so no action is needed there.

policy = OfflinePolicyEstimator(gamma=GAMMA, random_state=0).fit(log)
states = np.sort(log["state"].unique())
actions = policy.predict(states)

lake = gymnasium.make("FrozenLake-v1", is_slippery=True).unwrapped
tiles = lake.desc.astype(str)
arrows = tiles.copy()
arrows.flat[states] = np.array(list("←↓→↑"))[actions]
print("The map (Start, Frozen, Hole, Goal) and the policy:")
for tile_row, arrow_row in zip(tiles, arrows, strict=True):
    print("  ", " ".join(tile_row), "   ", " ".join(arrow_row))

# %%
# How good is it? With the true transitions P and rewards R, the values of a policy
# solve the linear system (I - gamma P_pi) v = r_pi. An outcome that terminates has no
# continuation, and so no entry in P.

n_states, n_actions = tiles.size, 4
P = np.zeros((n_states, n_actions, n_states))
R = np.zeros((n_states, n_actions))
for s, a in np.ndindex(n_states, n_actions):
    for probability, next_state, reward, terminated in lake.P[s][a]:
        P[s, a, next_state] += probability * (not terminated)
        R[s, a] += probability * reward


def state_values(pi):
    """Exact state values of the policy `pi`, of shape (n_states, n_actions)."""
    P_pi = np.einsum("sa,sat->st", pi, P)
    return np.linalg.solve(np.eye(n_states) - GAMMA * P_pi, (pi * R).sum(axis=1))


uniform = np.full((n_states, n_actions), 1 / n_actions)
learned = uniform.copy()
learned[states] = np.eye(n_actions)[actions]

optimal_v = np.zeros(n_states)
for _ in range(2_000):  # value iteration: 0.99 ** 2000 is 2e-9
    optimal_v = (R + GAMMA * P @ optimal_v).max(axis=1)

start = 0
learned_v = state_values(learned)
print("\nExact value from the start tile:")
print(f"   random walker in the log   {state_values(uniform)[start]:.3f}")
print(f"   tabrl                      {learned_v[start]:.3f}")
print(f"   optimum                    {optimal_v[start]:.3f}")

# %%
# The network also says how sure it is. Here are the tenth, fiftieth and ninetieth
# percentiles of the optimal value of the start tile.

low, middle, high = (
    policy.action_values([start], quantile).max() for quantile in (0.1, 0.5, 0.9)
)
print(f"\nEstimated from the log: {middle:.3f}, 80 % interval {low:.3f} to {high:.3f}")

# %%
# Three views of the lake: the policy, its value from each tile, and the number of
# visits of each tile in the log.

decides = np.isin(np.arange(n_states), states).reshape(tiles.shape)
visits = np.bincount(log["state"], minlength=n_states).reshape(tiles.shape)
values = learned_v.reshape(tiles.shape)

figure, axes = plt.subplots(1, 3, figsize=(11.5, 4.2), layout="constrained")
panels = [
    ("Policy", None, arrows, "{}"),
    ("Value of the policy", values, values, "{:.2f}"),
    ("Visits in the log", visits, visits, "{}"),
]
for axis, (title, colours, labels, form) in zip(axes, panels, strict=True):
    axis.set_title(title, fontsize=13)
    shown = np.zeros(tiles.shape) if colours is None else colours
    image = axis.imshow(
        np.ma.masked_where(~decides, shown),
        cmap="Greys" if colours is None else "cividis",
        vmin=0,
    )
    axis.set_facecolor("0.8")
    axis.set_xticks([])
    axis.set_yticks([])
    for tile in np.ndindex(tiles.shape):
        text, size, colour = form.format(labels[tile]), 12, "black"
        if not decides[tile]:
            text = {"H": "hole", "G": "goal"}[tiles[tile]]
        elif colours is None:
            size = 24
        elif image.norm(colours[tile]) < 0.5:
            colour = "white"
        axis.text(
            *tile[::-1], text, ha="center", va="center", fontsize=size, color=colour
        )
    axis.set_xticks(np.arange(-0.5, 4), minor=True)
    axis.set_yticks(np.arange(-0.5, 4), minor=True)
    axis.grid(which="minor", color="white" if colours is not None else "0.6")
    axis.tick_params(which="minor", length=0)

figure.suptitle(
    f"FrozenLake from {len(log):,} random steps: worth {learned_v[start]:.3f} from the "
    f"start, optimum {optimal_v[start]:.3f}, random {state_values(uniform)[start]:.3f}",
    fontsize=14,
)
figure.savefig("quickstart.png", dpi=150)
print(f"\nFigure: {Path('quickstart.png').resolve()}")
