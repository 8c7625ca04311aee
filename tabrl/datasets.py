"""Logs of other packages, as what `OfflinePolicyEstimator.fit` takes.

Each function takes the object of another package and returns a dict of columns:
`state`, `action`, `reward`, `next_state`, `terminated`, and what else is known. Nothing
is imported for that, and no row is made up: a row whose next state was not stored is
left out, unless the process ended with it. States of several numbers are rows of an
array; continuous ones must be binned before `fit`.

Coming from another package:

===========================  ======================================================
there                        here
===========================  ======================================================
**d3rlpy**
`MDPDataset`                 `from_d3rlpy(dataset)`
`DiscreteCQL().fit(...)`     `OfflinePolicyEstimator().fit(log)`; no steps to choose
`algo.predict(x)`            `policy.predict(states)`, with the labels of the log
`algo.predict_value(x, a)`   `policy.action_values(states)`, all actions at once
`FQE`                        `policy.policy_value()`, with an interval
**stable-baselines3**
`DQN("MlpPolicy", env)`      `OnlineAgent(reward_range=...)`, states that are labels
`model.learn(n)`             `agent.learn(env, total_timesteps=n)`
`model.predict(obs)`         `agent.predict(states)`
`ReplayBuffer`               `from_replay_buffer(model.replay_buffer)`
**mdptoolbox**
`PolicyIteration(P, R, g)`   `OfflinePolicyEstimator(gamma=g)`; P and R come from rows
`.policy`                    `policy.predict(policy.states_)`
`.V`                         `policy.action_values(policy.states_).max(axis=1)`
`P[a][s, s']`                counts in `policy.statistics_`, states first
**TabPFN**
`TabPFNClassifier()`         `OfflinePolicyEstimator()`: pretrained as well
`fit(X, y)`                  `fit(X, actions, reward=..., next_state=..., ...)`
`predict_proba(X)`           `predict_proba(states)`: a policy, not a forecast of y
quantiles of the regressor   `action_values(states, quantile=0.1)`
===========================  ======================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "from_d3rlpy",
    "from_d4rl",
    "from_minari",
    "from_obp",
    "from_replay_buffer",
    "from_sepsis",
    "from_vector_rollout",
]


def from_minari(dataset: Any) -> dict[str, NDArray]:
    """Read a dataset of Minari.

    Parameters
    ----------
    dataset : minari.MinariDataset or str
        A dataset, or the name of one that Minari has stored on this machine.

    Returns
    -------
    dict of arrays
        Also `truncated`, `episode` and `step`.

    Raises
    ------
    ImportError
        If it is a name and minari is not installed.
    TypeError
        If it is no dataset, or its observations or actions are not arrays.
    """
    if isinstance(dataset, str):
        try:
            import minari
        except ImportError as error:
            raise ImportError(
                f"Reading {dataset!r} by its name needs minari ({error}). Install it: "
                "pip install minari."
            ) from error
        dataset = minari.load_dataset(dataset)
    _needs(dataset, "iterate_episodes", "a MinariDataset")
    parts = []
    for number, episode in enumerate(dataset.iterate_episodes()):
        state = _array("observations", episode.observations)
        parts.append(
            {
                "state": state[:-1],
                "action": _array("actions", episode.actions),
                "reward": np.asarray(episode.rewards, np.float64),
                "next_state": state[1:],
                "terminated": np.asarray(episode.terminations, bool),
                "truncated": np.asarray(episode.truncations, bool),
                "episode": np.full(len(state) - 1, number),
                "step": np.arange(len(state) - 1),
            }
        )
    return _joined(parts)


def from_d3rlpy(dataset: Any) -> dict[str, NDArray]:
    """Read an MDPDataset or a replay buffer of d3rlpy.

    d3rlpy does not store where an episode led. The last row of an episode that did not
    terminate is left out, as d3rlpy itself does.

    Parameters
    ----------
    dataset : d3rlpy.dataset.MDPDataset or d3rlpy.dataset.ReplayBuffer
        The data.

    Returns
    -------
    dict of arrays
        Also `episode` and `step`; next states are missing where `terminated`.

    Raises
    ------
    TypeError
        If it is no dataset, or its observations are not arrays.
    """
    _needs(dataset, "episodes", "an MDPDataset of d3rlpy")
    parts = []
    for number, episode in enumerate(dataset.episodes):
        state = _array("observations", episode.observations)
        ends = np.zeros(len(state), bool)
        ends[-1] = True
        parts.append(
            _without_final(
                state,
                _array("actions", episode.actions),
                np.ravel(episode.rewards).astype(np.float64),
                terminated=ends & bool(episode.terminated),
                truncated=ends & (not episode.terminated),
            )
        )
        n = len(parts[-1]["action"])
        parts[-1] |= {"episode": np.full(n, number), "step": np.arange(n)}
    return _joined(parts)


def from_d4rl(dataset: Mapping[str, Any]) -> dict[str, NDArray]:
    """Read a dict of D4RL, as `env.get_dataset()` returns it.

    Parameters
    ----------
    dataset : mapping
        With `observations`, `actions`, `rewards` and `terminals`, perhaps `timeouts`
        and `next_observations`. Without the last, the next row is the next state,
        and rows that a timeout cut are left out, as D4RL's `qlearning_dataset` does.

    Returns
    -------
    dict of arrays
        Next states are missing where `terminated`, if they were not stored.

    Raises
    ------
    ValueError
        If a column is missing.
    """
    _columns(dataset, ("observations", "actions", "rewards", "terminals"), "D4RL")
    state = _array("observations", dataset["observations"])
    terminated = np.asarray(dataset["terminals"], bool)
    truncated = np.asarray(dataset.get("timeouts", np.zeros(len(state))), bool)
    action, reward = _array("actions", dataset["actions"]), dataset["rewards"]
    reward = np.asarray(reward, np.float64)
    if "next_observations" in dataset:
        return {
            "state": state,
            "action": action,
            "reward": reward,
            "next_state": _array("next_observations", dataset["next_observations"]),
            "terminated": terminated,
            "truncated": truncated & ~terminated,
        }
    return _without_final(state, action, reward, terminated, truncated)


def from_vector_rollout(
    observations: ArrayLike,
    actions: ArrayLike,
    rewards: ArrayLike,
    terminations: ArrayLike,
    truncations: ArrayLike,
    *,
    autoreset: str = "next_step",
) -> dict[str, NDArray]:
    """Read the steps of a vector environment of gymnasium.

    Parameters
    ----------
    observations : array of shape (n_steps + 1, n_envs, ...)
        What `reset` returned, then what each `step` returned.
    actions, rewards, terminations, truncations : array of shape (n_steps, n_envs)
        Of each step.
    autoreset : {"next_step", "same_step"}, default="next_step"
        When the environment begins anew. "next_step", gymnasium's default, spends a
        step on it: its action did nothing, and the row is left out. "same_step" puts
        the first observation of the next episode in place of the last one: next states
        are missing where `terminated`, and rows that were truncated are left out.

    Returns
    -------
    dict of arrays
        One environment after the other.

    Raises
    ------
    ValueError
        If the shapes do not fit each other.
    """
    state = np.asarray(observations)
    columns = {
        "action": np.asarray(actions),
        "reward": np.asarray(rewards, np.float64),
        "terminated": np.asarray(terminations, bool),
        "truncated": np.asarray(truncations, bool),
    }
    shape = columns["reward"].shape
    found = {name: column.shape[:2] for name, column in columns.items()}
    wanted = (shape[0] + 1, *shape[1:]) if len(shape) == 2 else None
    if set(found.values()) != {shape} or state.shape[:2] != wanted:
        raise ValueError(
            "Steps of a vector environment must have the shape (n_steps, n_envs), and "
            "observations one step more. Got observations "
            f"{state.shape[:2]}, {found}."
        )
    if autoreset not in ("next_step", "same_step"):
        raise ValueError(
            f'autoreset must be "next_step" or "same_step". Got {autoreset!r}.'
        )
    ended = columns["terminated"] | columns["truncated"]
    following = state[1:]
    if autoreset == "next_step":
        keep = np.ones(shape, bool)
        keep[1:] = ~ended[:-1]
    else:
        keep = ~(columns["truncated"] & ~columns["terminated"])
        following = _with_gaps(following, columns["terminated"])
    columns |= {"state": state[:-1], "next_state": following}
    flat = {
        name: np.swapaxes(column, 0, 1).reshape(-1, *column.shape[2:])
        for name, column in columns.items()
    }
    kept = keep.T.ravel()
    return {name: column[kept] for name, column in flat.items()}


def from_replay_buffer(buffer: Any) -> dict[str, NDArray]:
    """Read a ReplayBuffer of stable-baselines3.

    Parameters
    ----------
    buffer : stable_baselines3.common.buffers.ReplayBuffer
        Made without `optimize_memory_usage`, which forgets where an episode led.

    Returns
    -------
    dict of arrays
        One environment after the other, the oldest row first; also `truncated`.

    Raises
    ------
    TypeError
        If it is no replay buffer, or its observations are a dict.
    ValueError
        If it is empty or does not store next states.
    """
    _needs(buffer, "dones", "a ReplayBuffer of stable-baselines3")
    if getattr(buffer, "optimize_memory_usage", False):
        raise ValueError(
            "The buffer must store next states. Got one made with "
            "optimize_memory_usage=True. Make it with False."
        )
    n_rows = buffer.size()
    if not n_rows:
        raise ValueError("The buffer must hold at least one transition. Found none.")
    # Once it is full the oldest row stands where the next one will be written.
    order = (np.arange(n_rows) + (buffer.pos if buffer.full else 0)) % n_rows

    def rows(name: str) -> NDArray:
        column = _array(name, getattr(buffer, name))[order]
        return np.swapaxes(column, 0, 1).reshape(-1, *column.shape[2:])

    done, timeout = rows("dones").astype(bool), rows("timeouts").astype(bool)
    return {
        "state": rows("observations"),
        "action": rows("actions"),
        "reward": rows("rewards").astype(np.float64),
        "next_state": rows("next_observations"),
        "terminated": done & ~timeout,
        "truncated": timeout,
    }


def from_obp(feedback: Mapping[str, Any]) -> dict[str, NDArray]:
    """Read bandit feedback of the Open Bandit Pipeline.

    A round of a bandit is a transition that terminates.

    Parameters
    ----------
    feedback : mapping
        With `action` and `reward`; the `context` of a round, with its `position` where
        there are several, is its state. Without a context there is one state, 0.
        Contexts of continuous numbers must be binned before.

    Returns
    -------
    dict of arrays
        Without `next_state`: nothing follows. With `propensity`, for `score`, where
        there is `pscore`.

    Raises
    ------
    ValueError
        If a column is missing.
    """
    _columns(feedback, ("action", "reward"), "OBP's bandit feedback")
    action = _array("action", feedback["action"])
    context, position = feedback.get("context"), feedback.get("position")
    parts = []
    if context is not None:
        parts.append(_array("context", context).reshape(len(action), -1))
    if position is not None and len(np.unique(position)) > 1:
        parts.append(np.reshape(position, (-1, 1)))
    log = {
        "state": np.concatenate(parts, axis=1) if parts else np.zeros(len(action), int),
        "action": action,
        "reward": np.asarray(feedback["reward"], np.float64),
        "terminated": np.ones(len(action), bool),
    }
    if feedback.get("pscore") is not None:
        log["propensity"] = np.asarray(feedback["pscore"], np.float64)
    return log


def from_sepsis(
    table: Any,
    *,
    state: str | Sequence[str],
    action: str | Sequence[str],
    outcome: str = "mortality_90d",
    rewards: tuple[float, float] = (1.0, 0.0),
) -> dict[str, NDArray]:
    """Read a table of stays in intensive care: one row per stay and block of hours.

    It is the form of the sepsis cohort of Komorowski et al. (2018): `icustayid` names
    the stay, `bloc` counts its blocks. The last block of a stay terminates, and its
    reward says how the stay ended; all others have reward 0.

    Parameters
    ----------
    table : data frame
        Of any library.
    state, action : str or list of str
        Columns that make the state and the action, discrete already.
    outcome : str, default="mortality_90d"
        Column that is 1 where the patient died.
    rewards : (float, float), default=(1, 0)
        Of survival and of death.

    Returns
    -------
    dict of arrays
        Ordered by stay and block; next states are missing where `terminated`.

    Raises
    ------
    ValueError
        If a column is missing, a block occurs twice, or the outcome is not 0 or 1.
    """
    frame: Any = nw.from_native(table, eager_only=True)
    states, actions = (
        [names] if isinstance(names, str) else list(names) for names in (state, action)
    )
    names = ["icustayid", "bloc", *states, *actions, outcome]
    _columns(frame.columns, names, "The sepsis form")
    frame = frame.sort("icustayid", "bloc")
    stay, bloc = (frame[name].to_numpy() for name in ("icustayid", "bloc"))
    goes_on = np.append(stay[1:] == stay[:-1], False)
    again = goes_on[:-1] & (bloc[1:] == bloc[:-1])
    if again.any():
        first = int(again.argmax())
        raise ValueError(
            "Each bloc must occur once in a stay. Found "
            f"{int(again.sum())} repeated, first bloc {bloc[first]} of icustayid "
            f"{stay[first]}. Drop the repeated rows."
        )
    died = frame[outcome].to_numpy()
    if not np.isin(died, (0, 1)).all():
        wrong = died[~np.isin(died, (0, 1))]
        raise ValueError(
            f"Column {outcome!r} must be 0 or 1. Found {len(wrong)} other values, the "
            f"first {wrong[0]!r}."
        )
    survived, dead = rewards
    label, choice = (
        np.column_stack([frame[name].to_numpy() for name in group])
        if len(group) > 1
        else frame[group[0]].to_numpy()
        for group in (states, actions)
    )
    return {
        "state": label,
        "action": choice,
        "reward": np.where(goes_on, 0.0, np.where(died == 1, dead, survived)),
        "next_state": _with_gaps(np.roll(label, -1, axis=0), ~goes_on),
        "terminated": ~goes_on,
        "episode": stay,
        "step": bloc,
    }


def _without_final(
    state: NDArray,
    action: NDArray,
    reward: NDArray[np.float64],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
) -> dict[str, NDArray]:
    """Return rows whose next state is the state of the next row, if there is one."""
    keep = terminated | ~truncated
    keep[-1] = terminated[-1]  # nobody knows what came after the last row
    following = _with_gaps(np.roll(state, -1, axis=0), terminated)
    return {
        "state": state[keep],
        "action": action[keep],
        "reward": reward[keep],
        "next_state": following[keep],
        "terminated": terminated[keep],
    }


def _with_gaps(states: NDArray, missing: NDArray[np.bool_]) -> NDArray:
    """Return states, missing where nothing is known of them."""
    numeric = states.dtype.kind in "iuf"
    states = states.astype(np.float64 if numeric else object)
    states[missing] = np.nan if numeric else None
    return states


def _array(name: str, values: Any) -> NDArray:
    """Return a column as an array, the parts of a tuple side by side.

    A tuple space has its parts in order; the order of a dict would be guesswork.
    """
    if isinstance(values, tuple):
        parts = [np.asarray(part) for part in values]
        shapes = {part.shape for part in parts}
        if len(shapes) == 1 and parts[0].ndim == 1:  # one label a step each
            # A type that holds all would make text or floats of integers.
            one_type = len({part.dtype for part in parts}) == 1
            return np.stack(parts if one_type else [p.astype(object) for p in parts], 1)
        found = f"a tuple of shapes {', '.join(str(part.shape) for part in parts)}"
    elif isinstance(values, Mapping):
        found = f"a {type(values).__name__} of {list(values)[:5]}"
    else:
        return np.asarray(values)
    raise TypeError(
        f"{name} must be an array. Got {found}. Put its parts into one array, one row "
        "per step, before."
    )


def _needs(value: Any, attribute: str, what: str) -> None:
    if not hasattr(value, attribute):
        raise TypeError(f"Must be {what}. Got a {type(value).__name__}.")


def _columns(present: Any, wanted: Sequence[str], what: str) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise ValueError(
            f"{what} must have the columns {', '.join(wanted)}. Missing: "
            f"{', '.join(missing)}. Found: {', '.join(map(str, present)) or 'none'}."
        )


def _joined(parts: list[dict[str, NDArray]]) -> dict[str, NDArray]:
    if not parts:
        raise ValueError("There must be at least one episode. Found none.")
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
