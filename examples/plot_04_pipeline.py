"""
Continuous states in a pipeline
===============================

tabrl knows finitely many states. A pipeline makes them of continuous measurements: here
of the four of CartPole, a pole that falls unless a cart is pushed left or right at the
right time. The log is of random pushes, which keep the pole up for some 20 steps. The
environment then says how many of 500 steps each policy lasts; 500 is the optimum. The
other method is fitted Q iteration with extra trees (Ernst et al., 2005), which needs no
bins.
"""

# %%
# The log comes from 16 copies of the environment at once.
# `tabrl.datasets.from_vector_rollout` makes transitions of it: it leaves out the steps
# in which a copy only began anew.

import warnings
from pathlib import Path

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import sklearn
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer

from tabrl import OfflinePolicyEstimator, datasets

# How scikit-learn takes quantiles changes in a later version; either way will do.
warnings.filterwarnings("ignore", category=FutureWarning, module="sklearn")
GAMMA, N_SEEDS, N_STEPS, LIMIT = 0.99, 2, 700, 500


def draw_log(seed):
    """Push at random."""
    envs = gymnasium.make_vec("CartPole-v1", num_envs=16)
    rng = np.random.default_rng(seed)
    observations, steps = [envs.reset(seed=seed)[0]], []
    for _ in range(N_STEPS):
        action = rng.integers(2, size=16)
        observation, *outcome, _ = envs.step(action)
        observations.append(observation)
        steps.append([np.copy(column) for column in (action, *outcome)])
    log = datasets.from_vector_rollout(observations, *zip(*steps, strict=True))
    # What follows an end is not known, and not used. Bins need a number all the same.
    log["next_state"] = np.nan_to_num(log["next_state"])
    return log


def steps_up(predict, n_episodes=20):
    """Mean number of steps that a policy keeps the pole up."""
    envs = gymnasium.make_vec("CartPole-v1", num_envs=n_episodes)
    states, _ = envs.reset(seed=1_000)
    up, length = np.ones(n_episodes, bool), np.zeros(n_episodes)
    while up.any():
        states, _, terminated, truncated, _ = envs.step(predict(states))
        length += up
        up &= ~(terminated | truncated)
    return length.mean()


# %%
# Metadata routing takes the rewards through the pipeline, and bins the next states as
# the states. Nothing else is set. How coarse the bins are matters more than anything:
# three choices, from position, speed, angle and angular speed.

BINNINGS = {
    "3 x 5 x 8 x 8 of equal width": ([3, 5, 8, 8], "uniform"),
    "2 x 3 x 6 x 6 quantiles": ([2, 3, 6, 6], "quantile"),
    "3 x 5 x 8 x 8 quantiles": ([3, 5, 8, 8], "quantile"),
}
sklearn.set_config(enable_metadata_routing=True)


def learn(log, n_bins, strategy):
    """Fit a pipeline of bins and tabrl."""
    bins = KBinsDiscretizer(n_bins, encode="ordinal", strategy=strategy)
    # In the environment the pole reaches bins that no random push led to.
    policy = OfflinePolicyEstimator(GAMMA, handle_unknown="infer", random_state=0)
    rest = {name: log[name] for name in ("reward", "next_state", "terminated")}
    policy.set_fit_request(**dict.fromkeys(rest, True))
    model = make_pipeline(bins, policy, transform_input=["next_state"])
    return model.fit(log["state"], log["action"], **rest)


# %%
# Fitted Q iteration: 30 regressions of 20 extra trees, each on what the one before
# expects of the next state.


def fitted_q(log):
    """Return the greedy policy of fitted Q iteration."""
    inputs = np.column_stack([log["state"], log["action"]])
    trees = None

    def values(states):
        pairs = [np.column_stack([states, np.full(len(states), a)]) for a in (0, 1)]
        return np.stack([trees.predict(pair) for pair in pairs], axis=1)

    for _ in range(30):
        future = values(log["next_state"]).max(axis=1) if trees else 0
        target = log["reward"] + GAMMA * ~log["terminated"] * future
        trees = ExtraTreesRegressor(20, min_samples_leaf=5, random_state=0)
        trees.fit(inputs, target)
    return lambda states: values(states).argmax(axis=1)


# %%
# The scores, of logs of different seeds.

scores = {}
for seed in range(N_SEEDS):
    log = draw_log(seed)
    for name, (n_bins, strategy) in BINNINGS.items():
        model = learn(log, n_bins, strategy)
        scores.setdefault(f"tabrl, {name}", []).append(steps_up(model.predict))
    scores.setdefault("fitted Q, extra trees", []).append(steps_up(fitted_q(log)))
rng = np.random.default_rng(0)
scores["random pushes"] = [steps_up(lambda states: rng.integers(2, size=len(states)))]

print(
    f"Steps out of {LIMIT}, mean of 20 episodes, for {N_SEEDS} logs of random pushes\n"
)
for name, lengths in scores.items():
    print(f"{name:38}" + "".join(f"{length:7.0f}" for length in lengths))
trees = np.mean(scores["fitted Q, extra trees"])
for name in BINNINGS:
    mean = np.mean(scores[f"tabrl, {name}"])
    word = "wins against" if mean > trees else "loses to"
    print(
        f"tabrl with {name} {word} fitted Q: {mean:.0f}, {trees:.0f}; optimum {LIMIT}"
    )

# %%
# tabrl does not know that neighbouring bins are alike, so the bins decide. The picture
# has the scores, and the policy of the last pipeline where the cart stands still in the
# middle: mostly, push to where the pole falls. Grey: bins that the log never reached.

figure, (left, right) = plt.subplots(
    1, 2, figsize=(11.5, 4.2), layout="constrained", width_ratios=[1.2, 1]
)
for row, (name, lengths) in enumerate(scores.items()):
    colour = "C0" if name.startswith("tabrl") else "0.6"
    left.barh(row, np.mean(lengths), color=colour)
    left.plot(lengths, [row] * len(lengths), "o", color="black", markersize=4)
left.axvline(LIMIT, color="0.4", ls="-.", lw=1)
left.set_yticks(range(len(scores)), list(scores))
left.invert_yaxis()
left.set(xlabel="steps in the environment (dots: single logs)", xlim=(0, LIMIT * 1.03))

angle, speed = np.meshgrid(np.linspace(-0.2, 0.2, 81), np.linspace(-2, 2, 81))
grid = np.zeros((angle.size, 4))
grid[:, 2], grid[:, 3] = angle.ravel(), speed.ravel()
share = model.predict_proba(grid)[:, 1].reshape(angle.shape)
known = set(model[-1].states_.tolist())
bins = map(tuple, model[:-1].transform(grid).tolist())
reached = np.reshape([label in known for label in bins], share.shape)
share = np.ma.masked_where(~reached, share)
right.set_facecolor("0.85")
image = right.pcolormesh(angle, speed, share, cmap="RdBu", vmin=0, vmax=1)
figure.colorbar(image, ax=right, label="probability of a push to the right")
right.set(xlabel="angle of the pole", ylabel="its angular speed")
figure.savefig("pipeline.png", dpi=150)
print(f"\nFigure: {Path('pipeline.png').resolve()}")
