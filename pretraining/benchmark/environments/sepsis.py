"""ICU-Sepsis: the treatment of patients, estimated from hospital records."""

from __future__ import annotations

import numpy as np

from pretraining.benchmark.environments.packages import folder
from pretraining.benchmark.process import Environment

_DEATH, _SURVIVAL, _AFTER = 713, 714, 715


def icu_sepsis(gamma: float) -> Environment:
    """Load ICU-Sepsis-v2 of the package icu-sepsis: 716 states, 25 actions.

    A state is a cluster of patients with sepsis, an action a dose of fluids and one of
    vasopressors, at five levels each. Survival pays 1; survival and death end the
    episode. The process was estimated from MIMIC-III (Choudhary et al. 2024, arXiv
    2406.05646). Where clinicians did not take an action often enough, it does what the
    mean of the others does.

    The arrays are read from the package's file. The package itself is not imported,
    because that imports the unmaintained gym.

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed.
    """
    path = folder("icu_sepsis", "icu-sepsis") / "envs" / "assets" / "dynamics.npz"
    with np.load(path) as data:
        transition, rewards, start = (data[k] for k in ("tx_mat", "r_mat", "d_0"))
    width = int((transition > 0).sum(axis=2).max())
    # Successors of positive probability first, in their order.
    next_state = np.argsort(transition <= 0, axis=2, kind="stable")[:, :, :width]
    prob = np.take_along_axis(transition, next_state, axis=2)
    reward = np.take_along_axis(rewards, next_state, axis=2)
    return Environment(
        name="ICU-Sepsis-v2",
        next_state=next_state,
        prob=prob,
        reward=np.where(prob > 0, reward, 0.0),
        terminated=np.isin(next_state, (_DEATH, _SURVIVAL, _AFTER)),
        start=start,
        gamma=gamma,
    )
