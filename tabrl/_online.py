"""An agent that explores: it plans, acts, counts what happens, and plans again."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from tabrl._checkpoint import refuse_not_finite
from tabrl._checks import (
    check_device,
    check_gamma,
    check_optimism,
    check_reward_range,
    check_size,
    restored_device,
)
from tabrl._encoder import check_sizes
from tabrl._environments import interact, progress, read_spaces
from tabrl._experience import Experience
from tabrl._html import notebook_summary, parameters_table
from tabrl._inference import solve_to_explore
from tabrl._persistence import (
    pack_random_state,
    read,
    restore_generator,
    unpack_random_state,
    whole,
    write,
)
from tabrl._policy import Policy
from tabrl._replanning import Replanning


class OnlineAgent(Experience):
    """Agent that learns a decision process by acting in it, in few episodes.

    At the start of each episode the pretrained network reads the counts and mean
    rewards of all transitions so far. The agent draws a process from the network's
    posterior, adds a bonus for what was never tried, and plans in it exactly. It
    follows that plan, ties at random: so it goes where the optimum may still be,
    however far that is. Within an episode it replans when its plan is about to repeat
    an action just tried for the second time (at the earliest after one step for each
    10,000 pairs of state and action), and after 200 steps as soon as the number of
    visits of some pair has doubled.

    Parameters
    ----------
    n_states : int or None, default=None
        Number of states, labelled 0 to ``n_states - 1``. None takes it from the
        environment given to `learn` if its observations are Discrete; else any labels
        are taken (numbers, strings, tuples), and states are added as they appear.
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
        the checkpoint explores best with on the prior, 0 explores nothing that does not
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
        Labels of all states known, in order of appearance where they are added.
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
    ...     room, end, step = 0, False, 0
    ...     while not end and step < 20:
    ...         action = agent.act(room)
    ...         after = min(room + 1, 4) if action == 1 else max(room - 1, 0)
    ...         end, step = after == 4, step + 1
    ...         agent.observe(room, action, float(end), after, end, step == 20)
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
        """Start without transitions; `states` None adds them as they appear."""
        super()._begin(states, actions)
        self._replanning = Replanning()
        nothing = np.zeros((0, self._encoder.n_actions))
        self._policy = Policy(nothing, is_greedy=True)
        self.n_plans_ = 0

    # -- acting and observing ------------------------------------------------

    def act(self, state: Any, action_mask: Any = None) -> int:
        """Choose an action; plan first at the start of an episode, or where it is due.

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
        actions = self._encoder.known_actions()
        code = self._encoder.state(state)
        if action_mask is not None and self._encoder.set_mask(code, action_mask):
            self._policy.forget(code)
            self._exploited = None
        if self._replanning.is_due():
            self._plan()
        choice = self._draw(code)
        n_pairs = len(self._encoder.states) * len(actions)
        explores = self._policy.is_greedy
        if explores and self._replanning.is_due_before((code, choice), n_pairs):
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
        code, choice, reward, after, new = self._encoder.transition(
            state, action, reward, next_state, terminated, truncated
        )
        tally, replanning = self._tally, self._replanning
        before, age = tally.n_transitions, replanning.age + 1
        ended = terminated or truncated
        try:
            if new:
                self._encoder.states.extend(new)
            n = tally.add(code, choice, reward, after, terminated)
            replanning.count(code, choice, n, age, ended)
        except BaseException:  # an interrupt half-way: what is left, to the end
            self._encoder.states.extend(new)
            if tally.n_transitions == before:
                tally.add(code, choice, reward, after, terminated)
            n = tally.visits(code, choice)
            replanning.count(code, choice, n, age, ended)
            raise

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
            shares. Uniform in states that were added after planning.
        """
        n_actions = len(self._encoder.known_actions())
        codes = self._encoder.states.encode(states)
        if self._replanning.due:
            self._plan()
        rows = [
            self._policy.probabilities(code, self._encoder.mask(code))
            for code in codes.tolist()
        ]
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
            Its observations are Discrete, MultiDiscrete, MultiBinary, Text, a Box of
            integers, or a Tuple or Dict of these, its actions Discrete.
            ``info["action_mask"]`` is respected. The copies of a vector environment
            share what they learn; all follow the plan made when an episode of any of
            them ended.
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
        self._replanning.due = True
        seeded = self.random_state is not None
        seed = int(self._rng.integers(2**31)) if seeded else None
        n_ended = 0
        with progress(goal, name, progress_bar) as update:
            for n_steps, episode in enumerate(interact(self, env, seed), 1):
                n_ended += episode is not None
                n_done = n_steps if n_episodes is None else n_ended
                update(n_done)
                if episode is not None and callback is not None:
                    if callback(self, {"episode": n_ended, **episode}) is False:
                        break
                if n_done == goal:
                    break
        return self

    def __repr__(self) -> str:
        return (
            f"OnlineAgent(n_states={self.n_states}, n_actions={self.n_actions}, "
            f"gamma={self.gamma}, reward_range={self.reward_range})"
        )

    def _repr_html_(self) -> str:
        names = inspect.signature(type(self)).parameters
        parameters = {name: getattr(self, name) for name in names}
        known = notebook_summary(self) if self.n_transitions_ else ""
        return parameters_table("OnlineAgent", parameters) + known

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
        observed, arrays = self._pack()
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
            **observed,
            "seed": self._seed,
            "rng": self._rng.bit_generator.state,
            "plan": {
                "n": self.n_plans_,
                "explores": self._policy.is_greedy,
                **self._replanning.pack(),
            },
        }
        write(path, "OnlineAgent", meta, arrays | {"scores": self._policy.scores})

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
        with whole(path, "OnlineAgent"):
            parameters = dict(meta["parameters"])
            saved_device = parameters.pop("device")
            for name, labels in (
                ("n_states", arrays["states_"]),
                ("n_actions", range(*(meta["actions"] or ()))),
            ):  # before an array of that size is made
                if parameters[name] not in (None, len(labels)):
                    raise ValueError(f"{name} of another size")
            if (
                type(saved_device) is not str
                or type(parameters["checkpoint"]) is not str
            ):
                raise TypeError("device or checkpoint")
            packed = parameters["random_state"]
            parameters["random_state"] = unpack_random_state(packed)
            agent = cls(**parameters)
            agent._restore(meta, arrays)
        agent.device = restored_device(saved_device) if device is None else device
        return agent

    def _restore(self, meta: dict[str, Any], arrays: dict[str, NDArray]) -> None:
        super()._restore(meta, arrays)
        plan, scores = meta["plan"], arrays["scores"]
        n_states, n_actions = len(self._encoder.states), self._encoder.n_actions
        if len(scores) > n_states or scores.shape[1:] != (n_actions,):
            raise ValueError("tables of different sizes")
        if scores.dtype != np.float64 or np.isnan(scores).any():
            raise ValueError("scores must be numbers")
        numbers = meta["seed"], plan["n"]
        if not all(type(x) is int and 0 <= x < 2**63 for x in numbers):
            raise TypeError("seed or number of plans")
        if type(plan["explores"]) is not bool:
            raise TypeError("plan: explores")
        self._seed, self.n_plans_ = numbers
        self._rng = restore_generator(meta["rng"])
        self._policy = Policy(scores, is_greedy=plan["explores"])
        self._replanning = Replanning.unpack(plan)

    # -- plans ---------------------------------------------------------------

    def _plan(self) -> None:
        """Plan for the episode that begins, or goes on."""
        explores = bool(self.explore)
        scores = self._exploring() if explores else self._exploit()[1]
        self._policy = Policy(scores, is_greedy=explores)
        self._replanning.restart()
        self.n_plans_ += 1

    def _draw(self, code: int) -> int:
        return self._policy.draw(code, self._encoder.mask(code), self._rng)

    def _exploring(self) -> NDArray[np.float64]:
        """Return the action values (S, A) to explore by, in units of their scale."""
        check_optimism(self.optimism)
        scores = np.zeros((len(self._encoder.states), self._encoder.n_actions))
        codes, problem = self._problem()
        if problem is not None:
            scores[codes] = solve_to_explore(*problem, self.optimism, self._rng)
        refuse_not_finite(self.checkpoint, np.exp(-np.abs(scores)))  # -inf: forbidden
        return scores

    def _join(self, env: Any) -> None:
        """Take over the labels of an environment, or see that they are the known."""
        spaces = read_spaces(env)
        check_sizes(spaces, self.n_states, self.n_actions)
        if self._encoder.matches(spaces):
            return
        if self.n_transitions_:
            raise ValueError(
                "The environment must have the states and actions of the one before. "
                f"Got others: {spaces}. Call reset to forget it, or make a new agent."
            )
        self._begin(spaces.states, spaces.actions)
