"""An agent that explores: plans for what may be, acts, counts, and plans again."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from tabrl._checkpoint import load_network
from tabrl._checks import (
    as_float,
    as_int,
    check_device,
    check_flag,
    check_gamma,
    check_optimism,
    check_reward_range,
    check_size,
    restored_device,
)
from tabrl._codes import factorise
from tabrl._environments import interact, progress, read_spaces
from tabrl._features import StatisticsBatch
from tabrl._inference import (
    at_quantile,
    most_probable,
    solve,
    solve_to_explore,
)
from tabrl._labels import as_labels
from tabrl._network import Network
from tabrl._offline import OfflinePolicyEstimator
from tabrl._persistence import (
    pack_random_state,
    read,
    statistics_from_arrays,
    statistics_to_arrays,
    unpack_random_state,
    write,
)
from tabrl._states import States
from tabrl._statistics import Statistics
from tabrl._tally import Tally
from tabrl._transitions import MAX_REWARD

# Values that differ by less, relative to their size, are the same.
_TIE = 1e-6
# Within an episode the plan stays for so many steps at least: the episodes of the
# usual tasks are no longer, and what they explore is planned as a whole.
_PATIENCE = 200
# It does not stay where it asks for a pair that by now was tried so often since it was
# made: what it hoped there is known, and a wall would hold it for the rest. Once is not
# enough, for bad luck in a first try may hide all that lies behind.
ENOUGH = 2
# So many pairs of state and action in all are worth one step: a plan takes longer the
# more there are, so that the next one within an episode waits for as many steps.
_PAIRS_PER_STEP = 10_000


class OnlineAgent:
    """Agent that learns a decision process by acting in it, in few episodes.

    At the start of each episode the pretrained network reads the counts and mean
    rewards of all transitions so far, and the agent plans exactly, in a process drawn
    from what the network says may be true, with hope for what was never tried. It
    follows that plan, ties at random: so it goes where the optimum may still be,
    however far that is. Within an episode it plans again when it is about to take an
    action for the third time that it took for the second time since it planned (at the
    earliest after a step for each 10,000 pairs of state and action), and after 200
    steps or more as soon as the number of visits of some pair has doubled.

    Parameters
    ----------
    n_states : int or None, default=None
        Number of states, labelled 0 to ``n_states - 1``. None takes it from the
        environment given to `learn` if its observations are Discrete; else any labels
        are taken (numbers, strings, tuples), and states are found on the way.
    n_actions : int or None, default=None
        Number of actions, labelled 0 to ``n_actions - 1``. None takes it from the
        environment given to `learn`.
    gamma : float, default=0.99
        Discount factor, in [0, 1).
    reward_range : (float, float) or None, default=None
        Smallest and largest reward that one step can give; rewards outside are an
        error. Give it if you know it: with None the scale is that of the largest mean
        reward seen, so that the agent cannot know what there is still to find. It then
        may settle for the first small reward, or explore longer than it needs to.
    checkpoint : str or path, default="auto"
        As in `OfflinePolicyEstimator`.
    device : str or torch.device, default="auto"
        As in `OfflinePolicyEstimator`.
    optimism : float, default=1.0
        Scales how far what the agent plans for may be from what it expects; 1 is what
        the checkpoint was found to explore best with, 0 explores nothing that does not
        look best. Like `explore` it may be set at any time, and is read
        when the agent plans next.
    explore : bool, default=True
        False follows the exploiting policy instead, sampled from `predict_proba`.
    random_state : int, RandomState instance or None, default=None
        Of the draws to plan for and the choice among actions. If given, `learn` seeds
        the environment from it.

    Attributes
    ----------
    states_ : array of shape (n_states,)
        Labels of all states known, in order of appearance where they are found.
    actions_ : array of shape (n_actions,)
        Labels of all actions; the columns of `predict_proba`.
    statistics_ : Statistics
        Of all transitions observed, coded by their positions in these.
    n_transitions_ : int
        Number of transitions observed.
    n_plans_ : int
        How often it has planned; it follows one policy from a plan to the next.

    See Also
    --------
    sklearn.preprocessing.KBinsDiscretizer : Makes states of continuous observations.

    Examples
    --------
    A corridor of five rooms with a prize in the last one:

    >>> from tabrl import OnlineAgent
    >>> agent = OnlineAgent(5, 2, reward_range=(0, 1), random_state=0)
    >>> for episode in range(10):
    ...     room, found, step = 0, False, 0
    ...     while not found and step < 20:
    ...         action = agent.act(room)
    ...         after = min(room + 1, 4) if action == 1 else max(room - 1, 0)
    ...         found, step = after == 4, step + 1
    ...         agent.observe(room, action, float(found), after, found, step == 20)
    ...         room = after
    >>> agent.predict([0, 1, 2, 3])
    array([1, 1, 1, 1])
    """

    def __init__(
        self,
        n_states: int | None = None,
        n_actions: int | None = None,
        gamma: float = 0.99,
        reward_range: tuple[float, float] | None = None,
        checkpoint: str | os.PathLike[str] = "auto",
        device: str | torch.device = "auto",
        optimism: float = 1.0,
        explore: bool = True,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        check_size("n_states", n_states)
        check_size("n_actions", n_actions)
        self.n_states = n_states
        self.n_actions = n_actions
        self.gamma = check_gamma(gamma)
        self.reward_range = check_reward_range(reward_range)
        check_device(device)
        self.checkpoint = checkpoint
        self.device = device
        self.optimism = optimism
        self.explore = explore
        check_optimism(optimism)
        self.random_state = random_state
        self._seed = int(check_random_state(random_state).randint(2**31 - 1))
        low, high = self.reward_range or (-MAX_REWARD, MAX_REWARD)
        self._lowest, self._highest = max(low, -MAX_REWARD), min(high, MAX_REWARD)
        self.reset()

    def reset(self) -> OnlineAgent:
        """Forget everything: the agent is as it was made.

        Returns
        -------
        OnlineAgent
            The agent itself.
        """
        self._rng = np.random.default_rng(self._seed)
        self._begin(
            None if self.n_states is None else range(self.n_states),
            None if self.n_actions is None else range(self.n_actions),
        )
        return self

    def _begin(self, states: range | None, actions: range | None) -> None:
        """Start without transitions; `states` None finds them on the way."""
        self._states = States(states or (), complete=states is not None)
        self._actions = actions
        self._tally = Tally(len(actions or ()))
        self._scores = np.zeros((0, len(actions or ())))
        self._cumulative: dict[int, list[float]] = {}
        self._masks: dict[int, bytes] = {}
        self._exploited: tuple[int, int, NDArray, NDArray] | None = None
        self._explores = True  # what the present plan is for
        self.n_plans_ = 0
        self._due, self._doubled, self._age = True, False, 0
        self._news: set[tuple[int, int]] = set()

    # -- acting and observing ------------------------------------------------

    def act(self, state: Any, action_mask: Any = None) -> int:
        """Choose an action; at the start of an episode, and after news, plan.

        Parameters
        ----------
        state : label
            The present state.
        action_mask : array of shape (n_actions,), optional
            True or 1 for the actions allowed in this state, kept for planning until
            another one is given; by default the one given before, else all are.

        Returns
        -------
        int
            A label in ``actions_``.

        Raises
        ------
        ValueError, TypeError
            If the state is unknown and ``n_states`` is fixed, or the mask is not as
            described.
        """
        actions = self._known_actions()
        code = self._states.find(state)
        if code < 0:
            code = self._states.add(state)
        if action_mask is not None:
            self._set_mask(code, action_mask)
        if self._due or (self._doubled and self._age >= _PATIENCE):
            self._plan()
        choice = self._draw(code)
        if self._explores and (code, choice) in self._news and self._is_worth_a_plan():
            self._plan()
            choice = self._draw(code)
        return actions[choice]

    def observe(
        self,
        state: Any,
        action: int,
        reward: float,
        next_state: Any,
        terminated: bool,
        truncated: bool = False,
    ) -> None:
        """Count a transition, whoever chose the action.

        Parameters
        ----------
        state, next_state : label
            Where the transition started and led to; ``next_state`` may be None where
            `terminated`.
        action : int
            A label in ``actions_``.
        reward : float
            Its reward.
        terminated : bool
            Whether the process ended there, so that nothing of value follows.
        truncated : bool, default=False
            Whether the episode was cut, by a time limit say. The transition counts as
            any other, and the agent plans anew.

        Raises
        ------
        ValueError, TypeError
            If something is not as described; nothing is counted then.
        """
        actions = self._known_actions()
        if type(action) is not int:
            action = as_int(action)
        if action not in actions:
            raise ValueError(
                f"action must lie in {actions[0]} to {actions[-1]}. Got {action}."
            )
        if type(reward) is not float:
            reward = as_float(reward)
        if not self._lowest <= reward <= self._highest:
            self._refuse_reward(reward)
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if flag is not True and flag is not False:
                check_flag(name, flag)
        code, after = self._states.find(state), self._states.find(next_state)
        choice = action - actions[0]
        if code in self._masks and not self._mask(code)[choice]:
            raise ValueError(
                f"action must be allowed by the action_mask last given for the state. "
                f"Got {action} in state {state!r:.80}, where the mask is "
                f"{self._mask(code).astype(int).tolist()}."
            )
        if code < 0:
            self._states.check_new(state)
        if after < 0 and not (terminated and next_state is None):
            self._states.check_new(next_state)
            code = self._states.add(state) if code < 0 else code
            after = self._states.add(next_state)
        elif code < 0:
            code = self._states.add(state)
        n = self._tally.add(code, choice, reward, after, bool(terminated))
        if n & (n - 1) == 0:  # in a run without such an n no count has doubled
            self._doubled = True
            if n == ENOUGH:
                self._news.add((code, choice))
        self._age += 1
        if terminated or truncated:
            self._due = True

    def exploration_proba(self, states: Any) -> NDArray[np.float64]:
        """Return the policy that is followed at present.

        Between episodes, plans for the one that begins.

        Parameters
        ----------
        states : array-like of shape (n,)
            Known states.

        Returns
        -------
        array of shape (n, n_actions)
            Columns follow ``actions_``; actions that look equally good have equal
            shares. Uniform in states that were found after planning.
        """
        n_actions = len(self._known_actions())
        codes = self._states.encode(states)
        if self._due:
            self._plan()
        rows = [self._row(code) for code in codes.tolist()]
        return np.array(rows, np.float64).reshape(-1, n_actions)

    # -- learning in an environment ------------------------------------------

    def learn(
        self,
        env: Any,
        n_episodes: int | None = None,
        total_timesteps: int | None = None,
        callback: Callable[[OnlineAgent, dict[str, Any]], Any] | None = None,
        progress_bar: bool = False,
    ) -> OnlineAgent:
        """Act in an environment and learn from it; may be called again and again.

        Parameters
        ----------
        env : gymnasium.Env or gymnasium.vector.VectorEnv
            Its observations are Discrete, MultiDiscrete, MultiBinary, Text, or a Tuple
            of these, its actions Discrete. ``info["action_mask"]`` is respected. The
            copies of a vector environment share what they learn; all follow the plan
            made when an episode of any of them ended.
        n_episodes, total_timesteps : int
            When to stop; give one of them. Both count over all copies.
        callback : callable, optional
            Called with the agent and a dict of ``episode`` (how many have ended),
            ``return`` (undiscounted), ``length`` and ``terminated``, after each
            episode. False ends learning.
        progress_bar : bool, default=False
            Whether to show one; needs tqdm.

        Returns
        -------
        OnlineAgent
            The agent itself.

        Raises
        ------
        ValueError, TypeError
            If an argument or the environment is not as described.
        """
        if (n_episodes is None) == (total_timesteps is None):
            raise ValueError(
                "Give one of n_episodes and total_timesteps. Got "
                f"{n_episodes!r} and {total_timesteps!r}."
            )
        name = "n_episodes" if total_timesteps is None else "total_timesteps"
        goal = n_episodes if total_timesteps is None else total_timesteps
        check_size(name, goal)
        self._join(env)
        self._due = True
        seeded = self.random_state is not None
        seed = int(self._rng.integers(2**31)) if seeded else None
        n_ended = 0
        with progress(goal, name, progress_bar) as update:
            for n_steps, told in enumerate(interact(self, env, seed), 1):
                n_ended += told is not None
                n_done = n_steps if n_episodes is None else n_ended
                update(n_done)
                if told is not None and callback is not None:
                    if callback(self, {"episode": n_ended, **told}) is False:
                        break
                if n_done == goal:
                    break
        return self

    # -- exploiting ----------------------------------------------------------

    def predict(self, states: Any) -> NDArray[np.int64]:
        """Return the action to take if nothing more were to be learnt.

        Parameters
        ----------
        states : array-like of shape (n,)
            Known states.

        Returns
        -------
        array of shape (n,)
            The most probable action of `predict_proba`, ties at random.

        Raises
        ------
        ValueError
            If a state is unknown.
        """
        codes = self._states.encode(states)
        log_policy = self._exploit()[1]
        # Not the agent's own generator: asking must not change what it does.
        rng = np.random.default_rng((self._seed, self.n_transitions_))
        return self.actions_[most_probable(log_policy, rng)[codes]]

    def predict_proba(self, states: Any) -> NDArray[np.float64]:
        """Return the exploiting policy, as `OfflinePolicyEstimator.predict_proba` does.

        Parameters
        ----------
        states : array-like of shape (n,)
            Known states.

        Returns
        -------
        array of shape (n, n_actions)
            Columns follow ``actions_``; rows sum to one.
        """
        codes = self._states.encode(states)
        return np.exp(self._exploit()[1][codes])

    def action_values(
        self, states: Any, quantile: float | None = None
    ) -> NDArray[np.float64]:
        """Return the estimated optimal action values, in the units of the rewards.

        Parameters
        ----------
        states : array-like of shape (n,)
            Known states.
        quantile : float or None, default=None
            As in `OfflinePolicyEstimator.action_values`.

        Returns
        -------
        array of shape (n, n_actions)
            Columns follow ``actions_``.
        """
        codes = self._states.encode(states)
        return at_quantile(self._exploit()[0][:, codes], quantile)

    def to_offline(self) -> OfflinePolicyEstimator:
        """Return the estimator of what was observed, fitted.

        Returns
        -------
        OfflinePolicyEstimator
            As its `fit` on the log of all transitions gives it: it knows the states
            and actions that occurred, and no action masks.

        Raises
        ------
        ValueError
            If nothing was observed.
        """
        if not self.n_transitions_:
            raise ValueError("to_offline needs transitions. Observed none so far.")
        seen = np.array(sorted(self._tally.seen))
        states, (order,) = factorise(
            [as_labels([self._states.labels[i] for i in seen])]
        )
        statistics = self.statistics_.compress(seen)
        tried = np.unique(statistics.pair_action)
        statistics = replace(
            statistics,
            n_actions=len(tried),
            pair_action=np.searchsorted(tried, statistics.pair_action),
        )
        size = (len(seen), len(tried))
        statistics = statistics.relabel(order, np.arange(size[1]), *size)
        policy = OfflinePolicyEstimator(
            self.gamma,
            self.checkpoint,
            self.device,
            self.reward_range,
            self.random_state,
        )
        return policy._plan(states, self.actions_[tried], statistics)

    # -- what is known -------------------------------------------------------

    @property
    def states_(self) -> NDArray:
        """Labels of all states known."""
        return self._states.as_array()

    @property
    def actions_(self) -> NDArray[np.int64]:
        """Labels of all actions."""
        return np.array(self._known_actions())

    @property
    def statistics_(self) -> Statistics:
        """Statistics of all transitions observed."""
        return self._tally.statistics(len(self._states))

    @property
    def n_transitions_(self) -> int:
        """Number of transitions observed."""
        return self._tally.n_transitions

    def __repr__(self) -> str:
        return (
            f"OnlineAgent(n_states={self.n_states}, n_actions={self.n_actions}, "
            f"gamma={self.gamma}, reward_range={self.reward_range})"
        )

    # -- files ---------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the agent to one file that holds no pickle.

        Parameters
        ----------
        path : str or path
            Replaced if there is such a file; a failure leaves it as it was.

        Raises
        ------
        TypeError
            If a state is not a bool, int, float, string, date or a tuple of these.
        """
        actions = self._actions
        meta = {
            "parameters": {
                "n_states": self.n_states,
                "n_actions": self.n_actions,
                "gamma": self.gamma,
                "checkpoint": os.fspath(self.checkpoint),
                "device": str(self.device),
                "reward_range": self.reward_range and list(self.reward_range),
                "optimism": float(self.optimism),
                "explore": bool(self.explore),
                "random_state": pack_random_state(self.random_state),
            },
            "actions": actions and [actions.start, actions.stop],
            "complete": self._states.complete,
            "seed": self._seed,
            "rng": self._rng.bit_generator.state,
            "plan": {
                "n": self.n_plans_,
                "explores": self._explores,
                "due": self._due,
                "doubled": self._doubled,
                "age": self._age,
                "news": sorted(self._news),
            },
        }
        arrays = {
            "states_": self.states_,
            "seen": np.array(sorted(self._tally.seen), np.int64),
            "masked": np.array(list(self._masks), np.int64),
            "masks": np.frombuffer(b"".join(self._masks.values()), bool),
            "scores": self._scores,
        }
        arrays |= statistics_to_arrays(self.statistics_)
        write(path, "OnlineAgent", meta, arrays)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: str | torch.device | None = None,
    ) -> OnlineAgent:
        """Read an agent that `save` wrote; it goes on exactly where that one stopped.

        Parameters
        ----------
        path : str or path
            The file.
        device : str or torch.device, optional
            Where the network runs from now on. By default where it ran before, or
            "auto" if torch cannot use that here.

        Returns
        -------
        OnlineAgent
            The agent.

        Raises
        ------
        ValueError
            If the file holds no such agent, or one of a newer format.
        """
        meta, arrays = read(path, "OnlineAgent")
        try:
            parameters = dict(meta["parameters"])
            packed = parameters["random_state"]
            parameters["random_state"] = unpack_random_state(packed)
            saved_device = parameters.pop("device")
            agent = cls(**parameters)
            agent._begin(None, meta["actions"] and range(*meta["actions"]))
            labels = arrays["states_"].tolist()
            agent._states = States(labels, complete=bool(meta["complete"]))
            size = (len(labels), len(agent._actions or ()))
            statistics = statistics_from_arrays(arrays, *size)
            agent._tally = Tally.from_statistics(statistics, arrays["seen"])
            agent._scores = arrays["scores"]
            codes = arrays["masked"].tolist()
            masks = arrays["masks"].reshape(len(codes), size[1])
            agent._masks = {
                code: mask.tobytes() for code, mask in zip(codes, masks, strict=True)
            }
            agent._seed = meta["seed"]
            agent._rng.bit_generator.state = meta["rng"]
            plan = meta["plan"]
            agent.n_plans_, agent._explores = plan["n"], plan["explores"]
            agent._due, agent._doubled = plan["due"], plan["doubled"]
            agent._age = plan["age"]
            agent._news = {(state, action) for state, action in plan["news"]}
            known = {*codes, *agent._tally.seen} <= set(range(size[0]))
            planned = agent._scores.shape
            if not known or planned[0] > size[0] or planned[1:] != size[1:]:
                raise ValueError("tables of different sizes")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{os.fspath(path)!r} must hold an agent whole. Found it damaged: "
                f"{error!r:.200}. Save it again."
            ) from None
        agent.device = restored_device(saved_device) if device is None else device
        return agent

    # -- plans ---------------------------------------------------------------

    def _is_worth_a_plan(self) -> bool:
        """Tell whether the plan is old enough to be replaced within an episode."""
        n_pairs = len(self._states) * self._tally.n_actions
        return self._age * _PAIRS_PER_STEP >= n_pairs

    def _plan(self) -> None:
        """Plan for the episode that begins, or goes on."""
        explores = bool(self.explore)
        self._scores = self._exploring() if explores else self._exploit()[1]
        self._explores = explores
        self.n_plans_ += 1
        self._cumulative = {}
        self._due, self._doubled, self._age = False, False, 0
        self._news.clear()

    def _exploring(self) -> NDArray[np.float64]:
        """Return the action values (S, A) to explore by, in units of their scale."""
        check_optimism(self.optimism)
        scores = np.zeros((len(self._states), self._tally.n_actions))
        codes, told = self._told()
        if told is not None:
            scores[codes] = solve_to_explore(*told, self.optimism, self._rng)
        return scores

    def _exploit(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return action values (3, S, A) and log policy (S, A) of all data so far."""
        key = (self.n_transitions_, len(self._states))
        if self._exploited is None or self._exploited[:2] != key:
            size = (len(self._states), len(self._known_actions()))
            values = np.zeros((3, *size))
            log_policy = np.full(size, -math.log(size[1]))
            codes, told = self._told()
            if told is not None:
                values[:, codes], log_policy[codes] = solve(*told)
            self._exploited = (*key, values, log_policy)
        return self._exploited[2:]

    def _told(
        self,
    ) -> tuple[NDArray[np.int64], tuple[Network, StatisticsBatch, torch.device] | None]:
        """Return the states to ask about, and what `solve` takes if there are any.

        These are all but the known ends, where nothing will be decided. Where the
        number of states is not known, they are taken for all that there are once each
        was met more than once: the share of steps that lead to new states is about
        that of the states met only once (Good 1953).
        """
        statistics, seen = self.statistics_, self._tally.seen
        unseen = [code not in seen for code in range(len(self._states))]
        codes = np.flatnonzero(statistics.active_states | np.array(unseen, bool))
        if not len(codes):
            return codes, None
        device = check_device(self.device)
        statistics, allowed = statistics.compress(codes), None
        if self._masks:
            allowed = np.array([self._mask(code) for code in codes.tolist()])
        complete = self._states.complete or bool(statistics.encounters.min() > 1)
        batch = StatisticsBatch.from_statistics(
            statistics, self.gamma, self.reward_range, allowed, complete
        )
        return codes, (load_network(self.checkpoint, device), batch, device)

    def _draw(self, code: int) -> int:
        """Draw an action of the present plan."""
        cumulative = self._cumulative.get(code)
        if cumulative is None:
            cumulative = list(accumulate(self._row(code).tolist()))
            self._cumulative[code] = cumulative
        # Never past the last action that has a probability, whatever rounding does.
        draw = self._rng.random() * cumulative[-1]
        return bisect_right(cumulative, draw)

    def _row(self, code: int) -> NDArray[np.float64]:
        """Return the probabilities of the actions that the present plan gives."""
        planned = code < len(self._scores)
        scores = self._scores[code] if planned else np.zeros(self._tally.n_actions)
        if code in self._masks:  # perhaps another mask than when it was planned
            mask = self._mask(code)
            scores = np.where(mask, scores, -np.inf)
            if scores.max() == -np.inf:
                scores = np.where(mask, 0.0, -np.inf)
        best = scores.max()
        if self._explores:
            row = (scores >= best - _TIE * (1 + abs(best))).astype(np.float64)
        else:
            row = np.exp(scores - best)
        return row / row.sum()

    # -- labels and checks ---------------------------------------------------

    def _known_actions(self) -> range:
        if self._actions is None:
            raise ValueError(
                "n_actions must be known. Got None. Give it, or call learn with an "
                "environment first."
            )
        return self._actions

    def _mask(self, code: int) -> NDArray[np.bool_]:
        mask = self._masks.get(code)
        if mask is None:
            return np.ones(self._tally.n_actions, bool)
        return np.frombuffer(mask, bool)

    def _set_mask(self, code: int, action_mask: Any) -> None:
        mask = np.asarray(action_mask)
        is_mask = mask.dtype.kind in "biu" and ((mask == 0) | (mask == 1)).all()
        if mask.shape != (self._tally.n_actions,) or not is_mask or not mask.any():
            raise ValueError(
                f"action_mask must hold {self._tally.n_actions} flags of which one is "
                f"true at least. Got {action_mask!r:.200}."
            )
        packed = mask.astype(bool).tobytes()
        if self._masks.get(code) != packed and (code in self._masks or not mask.all()):
            self._masks[code] = packed
            self._cumulative.pop(code, None)
            self._exploited = None

    def _join(self, env: Any) -> None:
        """Take over the labels of an environment, or see that they are the known."""
        spaces = read_spaces(env)
        for name, given, found in (
            ("n_states", self.n_states, spaces.states),
            ("n_actions", self.n_actions, spaces.actions),
        ):
            if given is not None and (found is None or given != len(found)):
                raise ValueError(
                    f"{name} must be that of the environment, "
                    f"{None if found is None else len(found)}. Got {given}."
                )
        same = self._actions == spaces.actions
        if self._states.complete:
            same = same and self._states.labels == list(spaces.states or ())
        elif not self._states.labels:
            same = same and spaces.states is None
        if not same and self.n_transitions_:
            raise ValueError(
                "The environment must have the states and actions of the one before. "
                f"Got others: {spaces}. Call reset to forget it, or make a new agent."
            )
        if not same:
            self._begin(spaces.states, spaces.actions)

    def _refuse_reward(self, reward: float) -> None:
        if not math.isfinite(reward):
            raise ValueError(f"reward must be finite. Got {reward}.")
        if abs(reward) > MAX_REWARD:
            raise ValueError(
                f"reward must be at most {MAX_REWARD} in size. Got {reward}. Rescale "
                "the rewards."
            )
        raise ValueError(
            f"reward must lie in reward_range ({self._lowest}, {self._highest}). Got "
            f"{reward}. Widen reward_range, or pass None."
        )
