"""Draw a picture of every family of the prior: three processes each, and their optima.

python -m pretraining.validation.gallery --output gallery
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.sparse.csgraph import shortest_path

from pretraining.prior import FAMILIES
from pretraining.recipe.targets import draw_processes

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
    states = np.arange(S)
    for i, (graph, image, table) in enumerate(axes.T):
        terminal, allowed = batch.terminal[i].numpy(), batch.allowed[i].numpy()
        q = np.where(allowed, batch.q[i], -np.inf)
        best, v = q.argmax(1), q.max(1)
        P = batch.P[i].numpy() * ~terminal[:, None, None]
        chosen = P[states, best]

        linked = P.max(1) > 0.01
        x = place(linked)
        lines = LineCollection(list(x[np.argwhere(linked)]), color="0.8", lw=0.8)
        graph.add_collection(lines)
        s, t = np.nonzero((chosen > 0.05) & ~np.eye(S, dtype=bool))
        step = 0.8 * (x[t] - x[s])
        exact = {"angles": "xy", "scale_units": "xy", "scale": 1}
        graph.quiver(*x[s].T, *step.T, **exact, width=0.008, alpha=chosen[s, t])
        ring = np.where(batch.start[i] > 0, "limegreen", "black")[~terminal]
        around = {"edgecolors": ring, "linewidths": np.where(ring == "black", 0.5, 2.5)}
        points = graph.scatter(
            *x[~terminal].T, c=v[~terminal], s=110, zorder=3, **around
        )
        graph.scatter(*x[terminal].T, c="red", marker="s", s=110, zorder=3)
        figure.colorbar(points, ax=graph, location="bottom", shrink=0.7, label="V*")
        graph.set_aspect("equal", "datalim")
        graph.set_axis_off()
        noise, outcomes = float(batch.noise[i]), batch.outcomes[i].tolist()
        kind = f"reward noise {noise:.2g}" if noise else "no reward noise"
        if not np.isnan(outcomes[0]):
            kind = "rewards {:.2g} or {:.2g}".format(*outcomes)
        graph.set_title(f"gamma {batch.gamma[i]:.3f}; {kind}", fontsize=11)

        image.imshow(batch.P[i].numpy()[states, best], cmap="Blues", vmin=0, vmax=1)
        image.set(xlabel="next state", ylabel="state")
        reward = batch.reward[i].numpy()
        most = np.abs(reward).max()
        shades = table.imshow(reward.T, "RdBu", vmin=-most, vmax=most, aspect="auto")
        table.plot(states[~terminal], best[~terminal], "k.", markersize=5)
        table.plot(*np.argwhere(~allowed).T, "kx", markersize=4)
        table.set(xlabel="state", ylabel="action", yticks=range(A))
        figure.colorbar(shades, ax=table, label="reward")
    return figure


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
