"""Gymnasium's environments, single or vectorised, as labelled transitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabrl._progress import bar
from tabrl._states import as_label


@dataclass(frozen=True)
class Spaces:
    """What an environment says of its states and actions.

    Attributes
    ----------
    states : range or None
        Labels of all states; None if they are known only as they appear.
    actions : range
        Labels of all actions.
    """

    states: range | None
    actions: range


def read_spaces(env: Any) -> Spaces:
    """Return the labels of states and actions.

    Raises
    ------
    TypeError
        If `env` is no environment of gymnasium.
    ValueError
        If its observations or actions are not discrete.
    """
    from gymnasium import Env, spaces
    from gymnasium.vector import VectorEnv

    if not isinstance(env, Env | VectorEnv):
        raise TypeError(
            "env must be an environment of gymnasium, single or vectorised. Got "
            f"{type(env).__name__}. Make one with gymnasium.make."
        )
    seen: Any = env.observation_space
    done: Any = env.action_space
    if isinstance(env, VectorEnv):
        seen, done = env.single_observation_space, env.single_action_space
    if not isinstance(done, spaces.Discrete):
        raise ValueError(
            f"The action space must be Discrete. Got {done!s:.200}. Number the actions "
            "with gymnasium.wrappers.TransformAction."
        )
    if not _is_discrete(seen):
        raise ValueError(
            "The observation space must be Discrete, MultiDiscrete, MultiBinary, Text, "
            "a Box of integers, or a Tuple or Dict of these. "
            f"Got {seen!s:.200}. Bin continuous observations with "
            "sklearn.preprocessing.KBinsDiscretizer in a "
            "gymnasium.wrappers.TransformObservation, as the pipeline in the README "
            "does for a log."
        )
    return Spaces(
        _labels(seen) if isinstance(seen, spaces.Discrete) else None, _labels(done)
    )


def _labels(space: Any) -> range:
    return range(int(space.start), int(space.start) + int(space.n))


def _is_discrete(space: Any) -> bool:
    from gymnasium import spaces

    if isinstance(space, spaces.Tuple):
        return all(map(_is_discrete, space.spaces))
    if isinstance(space, spaces.Dict):
        return all(map(_is_discrete, space.spaces.values()))
    if isinstance(space, spaces.Box):
        return np.issubdtype(space.dtype, np.integer) or space.dtype == bool
    discrete = spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary | spaces.Text
    return isinstance(space, discrete)


@contextmanager
def progress(total: Any, unit: str, show: bool) -> Iterator[Callable[[int], None]]:
    """Show how far one is; gives the function to call with how much is done."""
    if not show:
        yield lambda done: None
        return
    with bar(total=total, unit=unit) as shown:
        yield lambda done: shown.update(done - shown.n)


def interact(agent: Any, env: Any, seed: int | None) -> Iterator[dict[str, Any] | None]:
    """Let an agent act and observe for ever.

    Transitions of a vector environment are observed copy by copy. What a copy does
    while it resets itself is no transition.

    Parameters
    ----------
    agent : OnlineAgent
        Its `act` and `observe` are called.
    env : gymnasium.Env or gymnasium.vector.VectorEnv
        Of `read_spaces`. It is reset first.
    seed : int or None
        Of that reset.

    Yields
    ------
    dict or None
        After each transition: return, length and end of the episode that it ended.
    """
    copies = _Copies(env)
    copies.reset(seed)
    ended = [False] * copies.n
    total, length = [0.0] * copies.n, [0] * copies.n
    while True:
        if copies.mode == "Disabled" and any(ended):
            copies.reset(None, ended)
        # What these copies do next is to start anew.
        idle = [copies.mode == "NextStep" and end for end in ended]
        states = copies.states
        actions = [
            copies.any_action if idle[i] else agent.act(states[i], copies.masks[i])
            for i in range(copies.n)
        ]
        rewards, terminated, truncated, reached = copies.step(actions)
        ended = [False] * copies.n
        for i in range(copies.n):
            if idle[i]:
                continue
            end = bool(terminated[i]), bool(truncated[i])
            agent.observe(states[i], actions[i], rewards[i], reached[i], *end)
            total[i] += rewards[i]
            length[i] += 1
            ended[i] = any(end)
            if not ended[i]:
                yield None
                continue
            yield {"return": total[i], "length": length[i], "terminated": end[0]}
            total[i], length[i] = 0.0, 0


class _Copies:
    """The copies of a vector environment, or the only one of a single environment.

    Attributes
    ----------
    states, masks : list
        Label of each copy's state, and its action mask or None.
    mode : str
        How a copy starts anew, as gymnasium.vector.AutoresetMode has it: "NextStep"
        (in the step after an episode's last, whose action has no effect), "SameStep"
        (in the last step itself), or "Disabled" (by `reset` alone).
    """

    def __init__(self, env: Any) -> None:
        from gymnasium.vector import AutoresetMode, VectorEnv

        self.env = env
        self.vector = isinstance(env, VectorEnv)
        self.n = env.num_envs if self.vector else 1
        self.mode = "Disabled"
        if self.vector:
            mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
            self.mode = AutoresetMode(mode).value
        space = env.single_action_space if self.vector else env.action_space
        self.any_action = int(space.start)
        self.states: list[Any] = [None] * self.n
        self.masks: list[Any] = [None] * self.n

    def reset(self, seed: int | None, ended: list[bool] | None = None) -> None:
        """Start all copies anew, or those whose episode has ended."""
        if ended is not None and self.vector:
            options = {"reset_mask": np.array(ended)}
            observations, info = self.env.reset(options=options)
        else:
            observations, info = self.env.reset(seed=seed)
        self._read(observations, info, [True] * self.n if ended is None else ended)

    def step(
        self, actions: list[int]
    ) -> tuple[list, list[bool] | NDArray, list[bool] | NDArray, list]:
        """Return rewards, terminated, truncated, and the labels of the next states."""
        if not self.vector:
            result = self.env.step(actions[0])
            observation, reward, terminated, truncated, info = result
            self._read(observation, info, [True])
            return [reward], [terminated], [truncated], self.states
        dtype = self.env.action_space.dtype
        result = self.env.step(np.array(actions, dtype))
        observations, rewards, terminated, truncated, info = result
        self._read(observations, info, [True] * self.n)
        finals = list(self.states)
        if self.mode == "SameStep":
            for i in np.flatnonzero(np.logical_or(terminated, truncated)):
                finals[i] = as_label(info["final_obs"][i])
        return rewards.tolist(), terminated, truncated, finals

    def _read(self, observations: Any, info: dict, which: list[bool]) -> None:
        """Take the labels and masks of those copies that are new."""
        if not self.vector:
            self.states, self.masks = (
                [as_label(observations)],
                [info.get("action_mask")],
            )
            return
        from gymnasium.vector.utils import iterate

        labels = map(as_label, iterate(self.env.observation_space, observations))
        self.states = list(labels)
        masks, has = info.get("action_mask"), info.get("_action_mask", which)
        for i in np.flatnonzero(which):
            self.masks[i] = masks[i] if masks is not None and has[i] else None
