"""
Learning by exploring
=====================

An agent that has never seen FrozenLake learns it in a few dozen episodes. Its network
was pretrained on synthetic processes. It reads the counts of the transitions so far
and plans. The same weights learn RiverSwim, where the only large reward is upstream.
This example compares the agent with PSRL and UCB-VI on both. The true probabilities
are known, so a linear system gives the exact value of the policy that each method
follows at the start of each episode.
"""

# %%
# FrozenLake comes with gymnasium. RiverSwim (Strehl and Littman, 2008) has six states
# in a row. Drifting left pays 0.005 at the left end. Swimming right, against the
# current, pays 1 at the right end, which random actions hardly ever reach.

from pathlib import Path

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
from gymnasium import spaces

from tabrl import OnlineAgent

GAMMA, N_SEEDS = 0.99, 3


class RiverSwim(gymnasium.Env):
    """Six states; action 0 drifts left, action 1 swims right."""

    def __init__(self, n_states=6):
        self.observation_space = spaces.Discrete(n_states)
        self.action_space = spaces.Discrete(2)
        last = n_states - 1
        # As gymnasium has it: (probability, next state, reward, terminated).
        self.P = {}
        for s in range(n_states):
            stay, ahead, back = 0.6, 0.35, 0.05
            if s == 0:
                stay, ahead, back = 0.4, 0.6, 0.0
            elif s == last:
                stay, ahead, back = 0.6, 0.0, 0.4
            moves = ((stay, s), (ahead, s + 1), (back, s - 1))
            left = (1.0, max(s - 1, 0), 0.005 * (s == 0), False)
            right = [(p, to, float(s == last), False) for p, to in moves if p > 0]
            self.P[s] = {0: [left], 1: right}

    def reset(self, *, seed=None, options=None):
        """Start at the left end."""
        super().reset(seed=seed)
        self.state = 0
        return self.state, {}

    def step(self, action):
        """Swim."""
        outcomes = self.P[self.state][int(action)]
        i = self.np_random.choice(len(outcomes), p=[outcome[0] for outcome in outcomes])
        _, self.state, reward, terminated = outcomes[i]
        return self.state, reward, terminated, False, {}


# %%
# The agent needs the range of the rewards. `learn` does the rest.

lake = gymnasium.make("FrozenLake-v1", is_slippery=True)
agent = OnlineAgent(gamma=GAMMA, reward_range=(0, 1), random_state=0)
returns = []
agent.learn(
    lake, n_episodes=100, callback=lambda _, told: returns.append(told["return"])
)
print(f"Reached the goal in {sum(returns[:20]):.0f} of the first 20 episodes,")
print(f"and in {sum(returns[-20:]):.0f} of the last 20.")

# %%
# PSRL and UCB-VI are classical methods. Both count transitions and plan by value
# iteration at the start of each episode. PSRL plans in a process drawn from its
# posterior, UCB-VI in the likeliest one, with a bonus for pairs with few visits.


def value_iteration(P, R):
    """Optimal action values (S, A) for continuing probabilities P (S, A, S)."""
    q = R
    for _ in range(600):
        q = R + GAMMA * P @ q.max(axis=1)
    return q


class PSRL:
    """Posterior sampling (Strens, 2000; Osband, Russo and Van Roy, 2013)."""

    def __init__(self, n_states, n_actions, seed):
        # The last column counts terminations.
        self.n = np.zeros((n_states, n_actions, n_states + 1))
        self.reward = np.zeros((n_states, n_actions))
        self.rng = np.random.default_rng(seed)
        self.due = True

    def optimistic_q(self):
        """Optimal action values of one draw."""
        prior = 1 / self.n.shape[2]
        P = self.rng.standard_gamma(self.n + prior) + 1e-12
        P /= P.sum(axis=2, keepdims=True)
        # A Gaussian posterior, of variance 1 before the first reward.
        n = self.n.sum(axis=2) + 1
        R = self.reward / n + self.rng.normal(size=n.shape) / np.sqrt(n)
        return value_iteration(P[:, :, :-1], R.clip(0, 1))

    def exploration_proba(self, states):
        """Policy of the present episode."""
        if self.due:
            q = self.optimistic_q()
            best = q >= q.max(axis=1, keepdims=True) - 1e-9
            self.pi, self.due = best / best.sum(axis=1, keepdims=True), False
        return self.pi[states]

    def act(self, state):
        """Follow it."""
        pi = self.exploration_proba([state])[0]
        return int(self.rng.choice(len(pi), p=pi))

    def observe(self, state, action, reward, next_state, terminated, truncated):
        """Count."""
        self.n[state, action, -1 if terminated else next_state] += 1
        self.reward[state, action] += reward
        self.due = terminated or truncated


class UCBVI(PSRL):
    """Value iteration with upper confidence bounds (Azar et al., 2017), discounted."""

    def optimistic_q(self):
        """Optimal action values with bonuses; what is untried gives all there is."""
        n = self.n.sum(axis=2).clip(min=1)
        bonus = 0.1 / np.sqrt(n)  # 0.01 does much the same here, 1 worse
        P = self.n[:, :, :-1] / n[:, :, None]
        unseen = self.n.sum(axis=2) == 0
        R = np.where(unseen, 1 / (1 - GAMMA), self.reward / n + bonus)
        return value_iteration(P, R)


# %%
# The value of the policy at the start of each episode is exact. It is normalised: 0 is
# the uniform policy, 1 the optimal one.


def exact_model(table):
    """Return P (S, A, S) of what continues, and R (S, A)."""
    n_states, n_actions = len(table), len(table[0])
    P, R = np.zeros((n_states, n_actions, n_states)), np.zeros((n_states, n_actions))
    for s, a in np.ndindex(n_states, n_actions):
        for probability, next_state, reward, terminated in table[s][a]:
            P[s, a, next_state] += probability * (not terminated)
            R[s, a] += probability * reward
    return P, R


def value(P, R, pi):
    """Value of a policy in state 0, where all episodes start."""
    P_pi = np.einsum("sa,sat->st", pi, P)
    v = np.linalg.solve(np.eye(len(P)) - GAMMA * P_pi, (pi * R).sum(axis=1))
    return v[0]


def curve(env, method, seed, n_episodes):
    """Normalised value of the policy followed in each episode."""
    P, R = exact_model(env.unwrapped.P)
    states = np.arange(len(P))
    worst = value(P, R, np.full(R.shape, 1 / R.shape[1]))
    best = value_iteration(P, R)[0].max()
    values = []
    for episode in range(n_episodes):
        values.append(value(P, R, method.exploration_proba(states)))
        state, _ = env.reset(seed=seed if episode == 0 else None)
        ended = False
        while not ended:
            action = method.act(state)
            next_state, reward, terminated, truncated, _ = env.step(action)
            method.observe(state, action, reward, next_state, terminated, truncated)
            state, ended = next_state, terminated or truncated
    return (np.array(values) - worst) / (best - worst)


def make_tabrl(n_states, n_actions, seed):
    """Agent that is told as much as the others."""
    return OnlineAgent(
        n_states, n_actions, GAMMA, reward_range=(0, 1), random_state=seed
    )


METHODS = {"tabrl": make_tabrl, "UCB-VI": UCBVI, "PSRL": PSRL}
WORLDS = {
    "FrozenLake": (lake, 100),
    "RiverSwim": (gymnasium.wrappers.TimeLimit(RiverSwim(), 50), 60),
}
curves = {}
for world, (env, n_episodes) in WORLDS.items():
    size = int(env.observation_space.n), int(env.action_space.n)
    print(f"\n{world}: regret in {n_episodes} episodes, mean of {N_SEEDS} seeds")
    for name, make in METHODS.items():
        runs = [
            curve(env, make(*size, seed), seed, n_episodes) for seed in range(N_SEEDS)
        ]
        curves[world, name] = np.mean(runs, axis=0)
        print(f"   {name:8}{(1 - curves[world, name]).sum():6.1f}")

# %%
# The ninetieth percentile of the value of each tile, after 1, 5 and 20 episodes. It
# falls where the agent has been, because uncertainty falls there.

beliefs = {}
believer = OnlineAgent(gamma=GAMMA, reward_range=(0, 1), random_state=1)
for n_more in (1, 4, 15):
    believer.learn(lake, n_episodes=n_more)
    after = sum((1, 4, 15)[: len(beliefs) + 1])
    beliefs[after] = believer.action_values(range(16), quantile=0.9).max(axis=1)

panels = [["FrozenLake"] * 3 + ["RiverSwim"] * 3]
panels.append([after for after in beliefs for _ in range(2)])
figure, axes = plt.subplot_mosaic(
    panels, figsize=(10, 7.4), layout="constrained", height_ratios=[1.3, 1]
)
for world in WORLDS:
    axis = axes[world]
    for name, colour in zip(METHODS, ("C3", "0.4", "C0"), strict=True):
        axis.plot(curves[world, name], color=colour, label=name, lw=2)
    axis.axhline(1, color="black", ls=":", lw=1)
    axis.set(title=world, xlabel="episode", ylim=(-0.3, 1.05))
axes["FrozenLake"].set_ylabel("value of the executed policy")
axes["RiverSwim"].legend(loc="lower right", frameon=False)

tiles = lake.unwrapped.desc.astype(str)
for after, belief in beliefs.items():
    axis = axes[after]
    image = axis.imshow(belief.reshape(tiles.shape), cmap="cividis", vmin=0)
    for tile in np.ndindex(tiles.shape):
        here = belief.reshape(tiles.shape)[tile]
        colour = "white" if image.norm(here) < 0.5 else "black"
        text = f"{tiles[tile]}\n{here:.3g}"
        axis.text(*tile[::-1], text, ha="center", va="center", color=colour)
    axis.set_title(f"Possible value, episode {after}")
    axis.set_xticks([])
    axis.set_yticks([])
figure.savefig("online.png", dpi=150)
print(f"\nFigure: {Path('online.png').resolve()}")
