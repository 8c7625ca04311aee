"""Draw a picture of every family of the prior: three processes each, and their optima.

    python -m pretraining.validation.gallery --output gallery

It serves people who write a family or judge one; nothing else imports it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.sparse.csgraph import shortest_path

from pretraining.prior import FAMILIES
from pretraining.recipe.targets import ProcessBatch, draw_processes

_LEGEND = (
    "Top: states (circles), placed by the number of steps between them, in the colour "
    "of their optimal value. Green ring: the episode may start here. Red square: it "
    "ends here.\nGrey lines: what some action can do. Arrows: where the optimal action "
    "leads, the darker the likelier. Middle: transition probabilities of the optimal "
    "action.\nBottom: mean reward of every action; dots mark the optimal ones, "
    "crosses what a state does not have."
)


def place(linked: NDArray) -> NDArray:
    """Return positions (S, 2) whose distances are about the numbers of steps."""
    steps = shortest_path(linked, directed=False, unweighted=True)
    steps[~np.isfinite(steps)] = steps[np.isfinite(steps)].max() + 1
    S = len(steps)
    centre = np.eye(S) - 1 / S
    value, vector = np.linalg.eigh(-0.5 * centre @ steps**2 @ centre)
    x = vector[:, -2:] * np.sqrt(np.maximum(value[-2:], 1e-6))
    x += 0.05 * np.random.default_rng(0).normal(size=x.shape)
    # Stress majorisation (Gansner, Koren and North, 2005); near pairs weigh more.
    weight = (1 - np.eye(S)) / np.maximum(steps, 1) ** 2
    inverse = np.linalg.pinv(np.diag(weight.sum(1)) - weight)
    for _ in range(100):
        now = np.linalg.norm(x[:, None] - x, axis=-1)
        pull = weight * steps / np.maximum(now, 1e-6)
        x = inverse @ (np.diag(pull.sum(1)) - pull) @ x
    return x


def draw(family: str) -> Figure:
    """Return a figure of three processes of a family."""
    rng = np.random.default_rng(0)
    S, A = (8, 5) if family == "bandits" else (30, 4)
    batch = draw_processes(rng, 3, S, A, [family])
    figure, axes = plt.subplots(
        3, 3, figsize=(13, 12), height_ratios=(4, 2.2, 1), layout="constrained"
    )
    about = (sys.modules[FAMILIES[family].__module__].__doc__ or family).split("\n")[0]
    figure.suptitle(about, fontsize=14, weight="bold")
    figure.supxlabel(_LEGEND, fontsize=9)
    for i, (graph, image, table) in enumerate(axes.T):
        allowed = batch.allowed[i].numpy()
        best = np.where(allowed, batch.q[i], -np.inf).argmax(1)
        _draw_graph(figure, graph, batch, i, best)
        image.imshow(
            batch.P[i].numpy()[np.arange(S), best], cmap="Blues", vmin=0, vmax=1
        )
        image.set(xlabel="next state", ylabel="state")
        _draw_rewards(figure, table, batch, i, best)
    return figure


def _draw_graph(
    figure: Figure, axis: Axes, batch: ProcessBatch, i: int, best: NDArray
) -> None:
    """Draw the states of process i, what leads where, and the optimal actions (S,)."""
    terminal = batch.terminal[i].numpy()
    S = len(terminal)
    v = batch.q[i].numpy()[np.arange(S), best]
    P = batch.P[i].numpy() * ~terminal[:, None, None]
    chosen = P[np.arange(S), best]

    linked = P.max(1) > 0.01
    x = place(linked)
    lines = LineCollection(list(x[np.argwhere(linked)]), color="0.8", lw=0.8)
    axis.add_collection(lines)
    s, t = np.nonzero((chosen > 0.05) & ~np.eye(S, dtype=bool))
    step = 0.8 * (x[t] - x[s])
    exact = {"angles": "xy", "scale_units": "xy", "scale": 1}
    axis.quiver(*x[s].T, *step.T, **exact, width=0.008, alpha=chosen[s, t])
    ring = np.where(batch.start[i] > 0, "limegreen", "black")[~terminal]
    around = {"edgecolors": ring, "linewidths": np.where(ring == "black", 0.5, 2.5)}
    points = axis.scatter(*x[~terminal].T, c=v[~terminal], s=110, zorder=3, **around)
    axis.scatter(*x[terminal].T, c="red", marker="s", s=110, zorder=3)
    figure.colorbar(points, ax=axis, location="bottom", shrink=0.7, label="V*")
    axis.set_aspect("equal", "datalim")
    axis.set_axis_off()
    title = f"gamma {batch.gamma[i]:.3f}; {_kind_of_rewards(batch, i)}"
    axis.set_title(title, fontsize=11)


def _kind_of_rewards(batch: ProcessBatch, i: int) -> str:
    noise, outcomes = float(batch.noise[i]), batch.outcomes[i].tolist()
    if not np.isnan(outcomes[0]):
        return "rewards {:.2g} or {:.2g}".format(*outcomes)
    return f"reward noise {noise:.2g}" if noise else "no reward noise"


def _draw_rewards(
    figure: Figure, axis: Axes, batch: ProcessBatch, i: int, best: NDArray
) -> None:
    """Draw the mean rewards of process i, with the optimal actions (S,) marked."""
    reward, alive = batch.reward[i].numpy(), ~batch.terminal[i].numpy()
    most = np.abs(reward).max()
    shades = axis.imshow(reward.T, "RdBu", vmin=-most, vmax=most, aspect="auto")
    axis.plot(np.flatnonzero(alive), best[alive], "k.", markersize=5)
    axis.plot(*np.argwhere(~batch.allowed[i].numpy()).T, "kx", markersize=4)
    axis.set(xlabel="state", ylabel="action", yticks=range(reward.shape[1]))
    figure.colorbar(shades, ax=axis, label="reward")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for PNGs")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        figure = draw(family)
        figure.savefig(arguments.output / f"{family}.png", dpi=80)
        plt.close(figure)


if __name__ == "__main__":
    main()
