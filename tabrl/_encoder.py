"""What an agent is given, checked and turned into codes: states, actions and masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabrl._checks import as_float, as_int, check_flag
from tabrl._environments import Spaces
from tabrl._states import States, as_label
from tabrl._transitions import MAX_REWARD, MIN_REWARD


class Encoder:
    """Labels of states and actions, and the actions that the states allow.

    A code is a position: of a state in ``states``, of an action in ``actions``.

    Parameters
    ----------
    states : range or None
        All states; None adds them as they appear.
    actions : range or None
        All actions; None before an environment was seen.
    reward_range : (float, float) or None
        Smallest and largest reward.

    Attributes
    ----------
    states : States
    actions : range or None
    masks : dict of int to bytes
        The flags of the actions of each state that was given a mask.
    """

    def __init__(
        self,
        states: range | None,
        actions: range | None,
        reward_range: tuple[float, float] | None,
    ) -> None:
        self.states = States(states or (), complete=states is not None)
        self.actions = actions
        self.masks: dict[int, bytes] = {}
        low, high = reward_range or (-MAX_REWARD, MAX_REWARD)
        self._lowest, self._highest = max(low, -MAX_REWARD), min(high, MAX_REWARD)

    @property
    def n_actions(self) -> int:
        """How many actions there are, 0 if they are not known."""
        return len(self.actions or ())

    def known_actions(self) -> range:
        """Return the labels of the actions, or say how to give them."""
        if self.actions is None:
            raise ValueError(
                "n_actions must be known. Got None. Give it, or call learn with an "
                "environment first."
            )
        return self.actions

    def transition(
        self,
        state: Any,
        action: Any,
        reward: Any,
        next_state: Any,
        terminated: Any,
        truncated: Any,
    ) -> tuple[int, int, float, int, tuple]:
        """Return the codes and the reward of a transition, and the states to add.

        The code of ``next_state`` is -1 if it is None and `terminated`. Nothing is
        changed: those of new states are what they will be once they are added. Where
        something is not as `OnlineAgent.observe` describes it, an error says so.
        """
        actions = self.known_actions()
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
        if reward and -MIN_REWARD < reward < MIN_REWARD:
            self._refuse_reward(reward)
        if terminated is not True and terminated is not False:
            check_flag("terminated", terminated)
        if truncated is not True and truncated is not False:
            check_flag("truncated", truncated)
        code, after = self.states.find(state), self.states.find(next_state)
        choice = action - actions[0]
        if code in self.masks:
            self._check_allowed(code, choice, action, state)
        if code >= 0 and (after >= 0 or (terminated and next_state is None)):
            return code, choice, reward, after, ()
        new: list = []
        if code < 0:
            code = self._new_code(state, new)
        if after < 0 and not (terminated and next_state is None):
            after = self._new_code(next_state, new)
        return code, choice, reward, after, tuple(new)

    def _new_code(self, state: Any, new: list) -> int:
        """Return the code that an unknown state will have, and put it to the new."""
        self.states.check_new(state)
        label = as_label(state)
        if label not in new:  # start and end may be the same new state
            new.append(label)
        return len(self.states) + new.index(label)

    def _check_allowed(self, code: int, choice: int, action: int, state: Any) -> None:
        mask = self.mask(code)
        if mask is not None and not mask[choice]:
            raise ValueError(
                f"action must be allowed by the action_mask last given for the state. "
                f"Got {action} in state {state!r:.80}, where the mask is "
                f"{mask.astype(int).tolist()}."
            )

    def _refuse_reward(self, reward: float) -> None:
        if not math.isfinite(reward):
            raise ValueError(f"reward must be finite. Got {reward}.")
        if abs(reward) > MAX_REWARD:
            raise ValueError(
                f"reward must be at most {MAX_REWARD} in size. Got {reward}. Rescale "
                "the rewards."
            )
        if 0 < abs(reward) < MIN_REWARD:
            raise ValueError(
                f"reward must be 0 or {MIN_REWARD:.0e} or more in size. Got {reward}. "
                "Rescale the rewards."
            )
        raise ValueError(
            f"reward must lie in reward_range ({self._lowest}, {self._highest}). Got "
            f"{reward}. Widen reward_range, or pass None."
        )

    def state(self, state: Any) -> int:
        """Return the code of a state, adding it if it is new."""
        code = self.states.find(state)
        return self.states.add(state) if code < 0 else code

    def mask(self, code: int) -> NDArray[np.bool_] | None:
        """Return the actions (A,) that a state allows, None if it was given no mask."""
        mask = self.masks.get(code)
        return None if mask is None else np.frombuffer(mask, bool)

    def set_mask(self, code: int, action_mask: Any) -> bool:
        """Keep the mask of a state; return whether it differs from the one before."""
        mask, n_actions = np.asarray(action_mask), self.n_actions
        is_mask = mask.dtype.kind in "biuf" and ((mask == 0) | (mask == 1)).all()
        if mask.shape != (n_actions,) or not is_mask or not mask.any():
            raise ValueError(
                f"action_mask must hold {n_actions} flags of which one is "
                f"true at least. Got {action_mask!r:.200}."
            )
        packed = mask.astype(bool).tobytes()
        before = self.masks.get(code)
        if before == packed or (before is None and mask.all()):
            return False
        self.masks[code] = packed
        return True

    def allowed(self, codes: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Return the actions (n, A) that states allow, None if no mask was given."""
        if not self.masks:
            return None
        every = np.ones(self.n_actions, bool)
        masks = map(self.mask, codes.tolist())
        return np.array([every if mask is None else mask for mask in masks])

    def matches(self, spaces: Spaces) -> bool:
        """Tell whether an environment has the labels that are known."""
        if self.actions != spaces.actions:
            return False
        if self.states.complete:
            return self.states.labels == list(spaces.states or ())
        return len(self.states) > 0 or spaces.states is None


def check_sizes(spaces: Spaces, n_states: int | None, n_actions: int | None) -> None:
    """Refuse an environment that has not the numbers that the user gave."""
    for name, given, labels in (
        ("n_states", n_states, spaces.states),
        ("n_actions", n_actions, spaces.actions),
    ):
        size = None if labels is None else len(labels)
        if given is not None and given != size:
            raise ValueError(
                f"{name} must be that of the environment, {size}. Got {given}."
            )
