"""
A log larger than memory
========================

A fleet of machines writes a file of transitions every month. The files need not fit in
memory: what a policy is made from are counts, and counts add. Here each file is
counted alone, as on a machine of its own; the counts are saved, loaded, added and
fitted. Then pyarrow, polars and DuckDB count the whole folder in one go. All policies
are the same to the last bit, and an exact solution says how good they are.

It needs pyarrow. polars and DuckDB are used where they are installed.
"""

# %%
# A state is a model of machine and its wear: 20 models, 50 levels. Each month one can
# run the machine, service it, or replace it. Wear grows faster in some models; a worn
# machine earns less, and may break down. Rewards are whole, in hundreds.

import importlib
import tempfile
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tabrl import OfflinePolicyEstimator, SufficientStatistics

GAMMA, N_MONTHS, N_ROWS = 0.95, 24, 100_000
N_MODELS, N_WEAR = 20, 50
ACTIONS = ["replace", "run", "service"]
n_states, n_actions = N_MODELS * N_WEAR, len(ACTIONS)
model, wear = np.divmod(np.arange(n_states), N_WEAR)
new = model * N_WEAR

# Outcomes of each state and action, (S, A, 3): chance, next state and reward.
chance = np.zeros((n_states, n_actions, 3))
next_state = np.zeros(chance.shape, dtype=int)
reward = np.zeros(chance.shape)
worn = [np.minimum(wear + grows, N_WEAR - 1) for grows in (1, 1 + model // 4)]
breaks = 0.3 * (wear / N_WEAR) ** 2
chance[:, 0, 0], next_state[:, 0, 0], reward[:, 0, 0] = 1, new, -60
chance[:, 1] = np.stack([(1 - breaks) / 2, (1 - breaks) / 2, breaks], axis=1)
next_state[:, 1] = np.stack([new + worn[0], new + worn[1], new], axis=1)
reward[:, 1] = np.stack([20 - wear // 5, 20 - wear // 5, np.full(n_states, -150)], 1)
chance[:, 2] = [0.7, 0.3, 0]
next_state[:, 2] = np.stack([new + wear // 2, new + wear, new], axis=1)
reward[:, 2] = (5 - wear // 5)[:, None]


def draw_month(month):
    """Log what the fleet did in a month: mostly running."""
    rng = np.random.default_rng(month)
    state = rng.integers(n_states, size=N_ROWS)
    action = rng.choice(n_actions, size=N_ROWS, p=[0.1, 0.7, 0.2])
    cdf = chance[state, action].cumsum(axis=1)
    outcome = (rng.random((N_ROWS, 1)) > cdf[:, :2]).sum(axis=1)
    return pa.table(
        {
            "state": state,
            "action": pa.array(np.array(ACTIONS)[action]).dictionary_encode(),
            "reward": reward[state, action, outcome],
            "next_state": next_state[state, action, outcome],
            "terminated": np.zeros(N_ROWS, dtype=bool),  # a fleet never ends
        }
    )


scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name) / "log"
folder.mkdir()
n_bytes = 0
for month in range(N_MONTHS):
    table = draw_month(month)
    n_bytes += table.nbytes
    pq.write_table(table, folder / f"month-{month:02}.parquet")
n_disk = sum(path.stat().st_size for path in folder.iterdir())
print(f"{N_MONTHS * N_ROWS:,} transitions: {n_bytes / 1e6:.0f} MB as one table")

# %%
# `SufficientStatistics` counts one file, and is all that has to be kept of it. The sum
# over files has one entry for each kind of transition, however many rows there are.
# `fit` takes it in place of a log.
#
# Beside tabrl stands certainty equivalence, which takes the observed frequencies for
# the truth. Here that is the better choice: after a month a pair has ten rows and more
# on average, and three outcomes at most. tabrl still runs machines in many states where
# service is best. That is no noise: other logs of this fleet give the same, and a
# second month even lowers the value. With more files the policy nears the optimum.

every = np.arange(n_states)
P = np.zeros((n_states, n_actions, n_states))
pair = every[:, None, None], np.arange(n_actions)[:, None]
np.add.at(P, (*pair, next_state), chance)
R = (chance * reward).sum(axis=2)


def state_values(actions, P=P, R=R):
    """Exact values (S,) of a policy that takes these actions."""
    P_pi = P[every, actions]
    return np.linalg.solve(np.eye(n_states) - GAMMA * P_pi, R[every, actions])


def plan(log, progress_bar=False):
    """Fit tabrl."""
    policy = OfflinePolicyEstimator(gamma=GAMMA, random_state=0)
    return policy.fit(log, progress_bar=progress_bar)


def codes(policy):
    """Return the actions of all states by their codes."""
    return np.searchsorted(ACTIONS, policy.predict(every).astype(str))


def policy_iteration(P, R):
    """Return the best action of each state."""
    best = np.full(n_states, 1)
    while True:
        q = R + GAMMA * P @ state_values(best, P, R)
        gains = q.max(axis=1) > q[every, best] + 1e-9
        if not gains.any():
            return best
        best = np.where(gains, q.argmax(axis=1), best)


def certainty_equivalence(counted):
    """Return the best action of each state by the observed frequencies."""
    n = counted.statistics
    state = counted.states[n.pair_state].astype(int)
    action = np.searchsorted(ACTIONS, counted.actions[n.pair_action].astype(str))
    frequency, mean = np.zeros(P.shape), np.full(R.shape, -np.inf)
    mean[state, action] = n.reward_sum / n.n
    edge, after = n.edge_pair, counted.states[n.edge_next].astype(int)
    frequency[state[edge], action[edge], after] = n.edge_count / n.n[edge]
    return policy_iteration(frequency, mean)


total, curve, plain = None, {}, {}
for number, path in enumerate(sorted(folder.iterdir()), start=1):
    part = SufficientStatistics.from_transitions(ds.dataset(path))
    part.save(folder.parent / "part")  # what a worker would send
    part = SufficientStatistics.load(folder.parent / "part")
    total = part if total is None else total + part
    if number in (1, 2, 3, 6, 12, 24):
        policy = plan(total)
        curve[number] = state_values(codes(policy)).mean()
        plain[number] = state_values(certainty_equivalence(total)).mean()
        print(
            f"{number:4} files, value {curve[number]:6.1f}, "
            f"certainty equivalence {plain[number]:6.1f}"
        )
total.save(folder.parent / "total")
n_kept = (folder.parent / "total").stat().st_size

# %%
# The exact optimum, by policy iteration on the true probabilities, and what the fleet
# earns today.

optimum = state_values(policy_iteration(P, R)).mean()
today = np.tensordot([0.1, 0.7, 0.2], P, axes=(0, 1))
behaviour = np.linalg.solve(
    np.eye(n_states) - GAMMA * today, R @ np.array([0.1, 0.7, 0.2])
).mean()
print(f"Optimum {optimum:.1f}, the fleet today {behaviour:.1f}")

# %%
# The same folder through each engine: it groups the rows, in parts, and only the groups
# come back. Where rewards are whole numbers no sum is rounded, so not a bit differs.
# `progress_bar` shows the rows as they are read; DuckDB does not tell.

engines = {"pyarrow": lambda: ds.dataset(folder)}
if find_spec("polars"):
    polars = importlib.import_module("polars")
    engines["polars"] = lambda: polars.scan_parquet(folder / "*.parquet")
if find_spec("duckdb"):
    duckdb = importlib.import_module("duckdb")
    engines["DuckDB"] = lambda: duckdb.read_parquet(str(folder / "*.parquet"))
has_tqdm = find_spec("tqdm") is not None
for name, open_folder in engines.items():
    same = plan(open_folder(), progress_bar=has_tqdm and name != "DuckDB")
    assert np.array_equal(same.predict_proba(every), policy.predict_proba(every))
    assert np.array_equal(same.action_values(every), policy.action_values(every))
    print(f"{name}: the same policy from {same.n_transitions_:,} transitions")

# %%
# The picture: what the policy is worth after so many files, and how much has to be
# kept. The last bar would not grow with more files.

figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 4.2), layout="constrained", width_ratios=[1.3, 1]
)
left.plot(list(curve), list(curve.values()), "o-", label="tabrl")
left.plot(list(plain), list(plain.values()), "s--", label="certainty equivalence")
left.axhline(optimum, color="0.4", ls="-.", lw=1, label="optimum")
left.axhline(behaviour, color="0.4", ls=":", lw=1, label="the fleet today")
left.set(xscale="log", xlabel="files counted", ylabel="value, mean of all states")
left.set_xticks(list(curve), list(map(str, curve)), minor=False)
left.minorticks_off()
left.legend(frameon=False, loc="center right")
sizes = {"one table": n_bytes, "parquet files": n_disk, "statistics": n_kept}
bars = right.barh(list(sizes), [size / 1e6 for size in sizes.values()], color="C0")
right.bar_label(bars, [f"{size / 1e6:.1f} MB" for size in sizes.values()], padding=3)
right.set(xlabel="MB", xlim=(0, n_bytes / 1e6 * 1.25))
right.invert_yaxis()
figure.savefig("out_of_core.png", dpi=150)
scratch.cleanup()
print(f"\nFigure: {Path('out_of_core.png').resolve()}")
