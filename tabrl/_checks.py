"""What arguments must be, whoever takes them: each check says what arrived instead."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def check_gamma(gamma: Any) -> float:
    if isinstance(gamma, bool) or not isinstance(gamma, int | float | np.number):
        raise TypeError(f"gamma must be a number in [0, 1). Got {gamma!r}.")
    if gamma == 1:
        raise ValueError(
            "gamma must lie in [0, 1). Got 1. Without a discount, a policy of states "
            "alone is not the best one over a limited number of steps, for what is "
            "best depends on how many are left. For tasks of at most H steps give "
            "1 - 1 / H; or make the steps that are left a part of the state, with "
            "terminated at zero, and a gamma near 1 such as 0.9999: the notes of "
            "OfflinePolicyEstimator show how."
        )
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma must lie in [0, 1). Got {gamma}.")
    return float(gamma)


def check_reward_range(
    reward_range: Any,
) -> tuple[float, float] | None:
    if reward_range is None:
        return None
    try:
        low, high = (float(end) for end in reward_range)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"reward_range must be a pair of numbers or None. Got {reward_range!r}."
        ) from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            "reward_range must be finite, the smallest reward below the largest. "
            f"Got ({low}, {high}). Where all rewards are alike add 0, which "
            "follows an end."
        )
    return low, high


def check_min_visits(min_visits: Any) -> int:
    if isinstance(min_visits, bool) or not isinstance(min_visits, int | np.integer):
        raise TypeError(f"min_visits must be an integer. Got {min_visits!r:.80}.")
    if min_visits < 0:
        raise ValueError(f"min_visits must be 0 or more. Got {min_visits}.")
    return int(min_visits)


def check_fraction(name: str, value: Any, open_ends: bool = False) -> float:
    """Refuse what is no number from 0 to 1, these two included or not."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a number. Got {value!r:.80}.")
    inside = 0 < value < 1 if open_ends else 0 <= value <= 1
    if not inside:
        ends = "(0, 1)" if open_ends else "[0, 1]"
        raise ValueError(f"{name} must lie in {ends}. Got {value}.")
    return float(value)


def check_handle_unknown(handle_unknown: Any) -> str:
    if handle_unknown not in ("error", "infer"):
        raise ValueError(
            f'handle_unknown must be "error" or "infer". Got {handle_unknown!r:.80}.'
        )
    return handle_unknown


def check_device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        # Planning needs float64 and what it returns: not every device has both.
        torch.empty(0, dtype=torch.float64, device=chosen).cpu()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ValueError(
            'device must be "auto" or one that torch can use here. '
            f"Got {str(device)!r}: {str(error).splitlines()[0].rstrip('.')}. "
            '"cpu" always works.'
        ) from error
    return chosen


def restored_device(saved: str | torch.device) -> str | torch.device:
    """Return the device that a file names, "auto" if torch cannot use it here."""
    try:
        check_device(saved)
    except ValueError:
        return "auto"
    return saved


def some(labels: NDArray) -> str:
    """Return the first few of the distinct labels, for a message."""
    distinct = list(dict.fromkeys(labels.tolist()))
    shown = ", ".join(repr(label) for label in distinct[:5])
    return shown + (f" and {len(distinct) - 5} more" if len(distinct) > 5 else "")


def as_int(action: Any) -> int:
    if isinstance(action, int | np.integer) and not isinstance(action, bool):
        return int(action)
    if isinstance(action, np.ndarray) and action.shape == () and action.dtype != bool:
        return as_int(action[()])
    raise TypeError(f"action must be an integer. Got {action!r:.80}.")


def as_float(reward: Any) -> float:
    try:
        if not isinstance(reward, str | bytes):
            return float(reward)
    except (TypeError, ValueError, OverflowError):
        pass
    raise TypeError(f"reward must be a number. Got {reward!r:.80}.")


def check_flag(name: str, flag: Any) -> None:
    if not isinstance(flag, bool | np.bool_):
        raise TypeError(f"{name} must be True or False. Got {flag!r:.80}.")


def check_size(name: str, size: Any) -> None:
    if size is None:
        return
    if not isinstance(size, int | np.integer) or isinstance(size, bool):
        raise TypeError(f"{name} must be an integer. Got {size!r:.80}.")
    if size < 1:
        raise ValueError(f"{name} must be 1 or more. Got {size}.")


def check_optimism(optimism: Any) -> None:
    number = isinstance(optimism, int | float | np.number)
    if not number or isinstance(optimism, bool):
        raise TypeError(f"optimism must be a number. Got {optimism!r:.80}.")
    if not (math.isfinite(optimism) and optimism >= 0):
        raise ValueError(f"optimism must be finite, 0 or more. Got {optimism}.")
