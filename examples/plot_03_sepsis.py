"""
A treatment policy from hospital records
========================================

Can a log of what clinicians did say how to treat better? ICU-Sepsis (Choudhary et al.,
2024, arXiv 2406.05646) is a process estimated from the records of patients with sepsis:
716 states, 25 combinations of fluids and vasopressors. Its probabilities are known, so
the share of patients who survive under a policy can be computed exactly. This example
draws logs of the clinicians' own policy, learns from them in five ways, and ends with
the page that one would show to the clinicians. It needs `pip install icu-sepsis`. It is
an exercise: nothing here is medical advice.
"""

# %%
# The package stores its arrays in one file, and the policy of the clinicians with them.
# Three states are ends: death, survival, and what comes after. Survival pays 1.

import importlib.util
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import sparse

from tabrl import OfflinePolicyEstimator, datasets

GAMMA, N_SEEDS, SIZES = 0.99, 2, (500, 2_000, 8_000)

package = importlib.util.find_spec("icu_sepsis")
if package is None:
    raise SystemExit("This example needs icu-sepsis: pip install icu-sepsis")
folder = Path(package.submodule_search_locations[0])
with np.load(folder / "envs" / "assets" / "dynamics.npz") as data:
    transition, reward = data["tx_mat"], data["r_mat"]
    start, clinicians = data["d_0"], data["expert_policy"]
n_states, n_actions, _ = transition.shape
SURVIVAL, ENDS = 714, (713, 714, 715)
R = (transition * reward).sum(axis=2)
R[ENDS, :] = 0
cumulative, habits = transition.cumsum(axis=2), clinicians.cumsum(axis=1)
transition[:, :, ENDS], transition[ENDS, :] = 0, 0
# One row per state and action: most successors have no probability.
P = sparse.csr_array(transition.reshape(-1, n_states))
uniform = np.full((n_states, n_actions), 1 / n_actions)


def action_values(P, R, pi, gamma):
    """Exact action values (S, A) of a policy `pi` (S, A)."""
    pairs = np.arange(R.size)
    choose = sparse.csr_array((pi.ravel(), (pairs // n_actions, pairs)))
    P_pi = (choose @ P).toarray()
    v = np.linalg.solve(np.eye(n_states) - gamma * P_pi, (pi * R).sum(axis=1))
    return R + gamma * (P @ v).reshape(R.shape)


def policy_iteration(P, R, gamma, known):
    """Best policy among the `known` actions (S, A), uniform where there is none."""
    pi = np.where(known.any(axis=1, keepdims=True), known, True) * 1.0
    pi /= pi.sum(axis=1, keepdims=True)
    while True:
        q = action_values(P, R, pi, gamma)
        best = np.where(known, q, -np.inf).argmax(axis=1)
        gain = q[np.arange(n_states), best] - (pi * q).sum(axis=1)
        better = known.any(axis=1) & (gain > 1e-9)
        if not better.any():
            return pi
        pi = np.where(better[:, None], np.eye(n_actions)[best], pi)


def survival(pi):
    """Exact share of the patients who survive."""
    return start @ (pi * action_values(P, R, pi, gamma=1)).sum(axis=1)


# %%
# A log has the form of the sepsis cohort: one row per stay (`icustayid`) and block of
# hours (`bloc`). `tabrl.datasets.from_sepsis` turns it into transitions.

ACTIONS = [f"fluids {a // 5}, vasopressor {a % 5}" for a in range(n_actions)]


def draw_log(n_stays, seed):
    """Draw the stays of patients whom the clinicians treat."""
    rng = np.random.default_rng(seed)
    stay, state, parts = np.arange(n_stays), rng.choice(n_states, n_stays, p=start), []
    died = np.zeros(n_stays, int)
    while len(stay):
        action = (habits[state] < rng.random((len(state), 1))).sum(axis=1)
        draw = rng.random((len(state), 1))
        following = (cumulative[state, action] < draw).sum(axis=1)
        columns = {"icustayid": stay, "bloc": len(parts), "state": state}
        parts.append(pd.DataFrame({**columns, "action": action}))
        ended = np.isin(following, ENDS)
        died[stay[ended]] = following[ended] != SURVIVAL
        stay, state = stay[~ended], following[~ended]
    table = pd.concat(parts)
    return table.assign(mortality_90d=died[table["icustayid"]])


# %%
# The classical methods see counts. Cloning repeats the most frequent action. Certainty
# equivalence takes observed frequencies for the truth. SPIBB (Laroche et al., 2019)
# changes only what was tried at least five times, and repeats the log elsewhere.


def classical(log):
    """Return the policies (S, A) of the classical methods."""
    pairs = log["state"] * n_actions + log["action"]
    n = np.bincount(pairs, minlength=R.size)
    R_hat = np.bincount(pairs, log["reward"], R.size) / n.clip(1)
    goes_on = ~log["terminated"]
    to = log["next_state"][goes_on].astype(int)
    share = 1 / n[pairs[goes_on]]
    P_hat = sparse.csr_array((share, (pairs[goes_on], to)), shape=P.shape)
    visits, R_hat = n.reshape(R.shape), R_hat.reshape(R.shape)

    seen = visits.any(axis=1, keepdims=True)
    share = visits / visits.sum(axis=1, keepdims=True).clip(1)
    behaviour = np.where(seen, share, uniform)
    cloning = np.where(seen, np.eye(n_actions)[visits.argmax(axis=1)], uniform)

    known = visits >= 5
    kept = np.where(known, 0, behaviour)
    free = np.where(known, behaviour, 0).sum(axis=1, keepdims=True)
    spibb, gain = behaviour, np.inf
    while gain > 1e-9:
        q = action_values(P_hat, R_hat, spibb, GAMMA)
        best = np.where(known, q, -np.inf).argmax(axis=1)
        improved = kept + free * np.eye(n_actions)[best]
        gain = ((improved - spibb) * q).sum(axis=1).max()
        spibb = improved
    return {
        "behaviour in the log": behaviour,
        "cloning": cloning,
        "certainty equivalence": policy_iteration(P_hat, R_hat, GAMMA, visits > 0),
        "SPIBB": spibb,
    }


def learn(log):
    """Fit tabrl with readable names of the actions, and return its policy (S, A)."""
    named = {**log, "action": np.array(ACTIONS)[log["action"]]}
    policy = OfflinePolicyEstimator(gamma=GAMMA, random_state=0).fit(named)
    decided = np.unique(log["state"])
    chosen = [ACTIONS.index(action) for action in policy.predict(decided)]
    pi = uniform.copy()
    pi[decided] = np.eye(n_actions)[chosen]
    return policy, pi


# %%
# Exact scores. What a method does not know it does at random.

scores = {}
for n_stays in SIZES:
    for seed in range(N_SEEDS):
        table = draw_log(n_stays, seed)
        log = datasets.from_sepsis(table, state="state", action="action")
        policy, pi = learn(log)
        for name, other in {"tabrl": pi, **classical(log)}.items():
            scores.setdefault(name, {}).setdefault(n_stays, []).append(survival(other))

means = {
    name: {n: np.mean(values) for n, values in by_size.items()}
    for name, by_size in scores.items()
}
optimum = survival(policy_iteration(P, R, 1, np.ones(R.shape, bool)))
today = survival(clinicians)
print(f"Share of patients who survive, exactly; mean of {N_SEEDS} logs\n")
print(f"{'stays in the log':24}" + "".join(f"{n:>9,}" for n in SIZES))
for name, by_size in means.items():
    print(f"{name:24}" + "".join(f"{by_size[n]:9.4f}" for n in SIZES))
print(
    f"\nclinicians {today:.4f}, optimum {optimum:.4f}, random {survival(uniform):.4f}"
)
for n in SIZES:
    best = max(means, key=lambda name, n=n: means[name][n])
    behind = "" if best == "tabrl" else f", tabrl {means['tabrl'][n]:.4f}"
    print(f"Best with {n:,} stays: {best}, {means[best][n]:.4f}{behind}")

# %%
# All methods stay far below the optimum: a few thousand stays are little for 716
# states. The picture has the scores, and which doses the policy of the largest log
# gives more often than the clinicians, in the same states.

figure, (left, right) = plt.subplots(
    1, 2, figsize=(11.5, 4.6), layout="constrained", width_ratios=[1.4, 1]
)
styles = {"tabrl": "o-", "SPIBB": "s--", "certainty equivalence": "^:"}
for name, by_size in means.items():
    values = [by_size[n] for n in SIZES]
    left.plot(
        SIZES, values, styles.get(name, ".:"), label=name, lw=2.5 - (name != "tabrl")
    )
left.axhline(optimum, color="0.4", ls="-.", lw=1)
left.text(SIZES[0], optimum, f"optimum {optimum:.3f}", va="bottom", color="0.3")
left.set(xscale="log", xlabel="stays in the log", ylabel="share who survive")
left.set_ylim(top=optimum + 0.01)
left.set_xticks(SIZES, [f"{n:,}" for n in SIZES], minor=False)
left.minorticks_off()
left.legend(frameon=False)

visits = np.bincount(log["state"], minlength=n_states)
change = visits @ (pi - clinicians) / visits.sum()
image = right.imshow(
    change.reshape(5, 5).T,
    cmap="RdBu",
    vmin=-abs(change).max(),
    vmax=abs(change).max(),
    origin="lower",
)
for a in range(n_actions):
    strong = abs(change[a]) > 0.6 * abs(change).max()
    colour = "white" if strong else "black"
    style = {"ha": "center", "va": "center", "color": colour, "fontsize": 9}
    right.text(a // 5, a % 5, f"{100 * change[a]:+.1f}", **style)
right.set(
    title="tabrl minus clinicians, percentage points",
    xlabel="level of fluids",
    ylabel="level of vasopressors",
)
figure.savefig("sepsis.png", dpi=150)
print(f"\nFigure: {Path('sepsis.png').resolve()}")

# %%
# What would one show to the clinicians? Not these scores: in a hospital nobody knows
# the true probabilities. The page has what the log alone says: what the policy is
# worth beside today's and how sure that is, the action of every state beside today's,
# and where that rests on thin data.

policy.report("sepsis.html", title=f"Sepsis: a policy from {SIZES[-1]:,} stays")
page = Path("sepsis.html").resolve()
print(f"Page: {page}, {page.stat().st_size / 1e6:.2f} MB")

# %%
# Here the truth is known, so the page can be checked. The clinicians' value comes from
# the returns of the stays. That of the policy is what the network makes of the log: it
# has no return to check itself by.

states = np.unique(log["state"])
sampled = uniform.copy()
order = [ACTIONS.index(action) for action in policy.actions_]
sampled[states] = 0
sampled[np.ix_(states, order)] = policy.predict_proba(states)
print("\nDiscounted values, estimated from the log with an 80 % interval, and exact:")
for name, estimate, exact_pi in (
    ("tabrl", policy.policy_value(), sampled),
    ("clinicians", policy.behaviour_value(), clinicians),
):
    q = action_values(P, R, exact_pi, GAMMA)
    exact = start @ (exact_pi * q).sum(axis=1)
    inside = estimate.low <= exact <= estimate.high
    print(
        f"{name:12}{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}), "
        f"exact {exact:.3f}: {'inside' if inside else 'outside'} the interval"
    )
