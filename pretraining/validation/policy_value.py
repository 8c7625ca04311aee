"""Measure how often intervals of policy values hold, and who is really better.

``python -m pretraining.validation.policy_value`` fits logs of the development
environments, solves the fitted policy exactly, and prints a table: the share of the
logs in which the interval of `OfflinePolicyEstimator.policy_value` holds that value,
the same of `behaviour_value`, and of the logs in which the policy is held for better
than the behaviour with a probability above 0.95, the share in which it is not.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np

from pretraining.benchmark.behaviours import behaviour_policy
from pretraining.benchmark.environments import ENVIRONMENT_NAMES, environment
from tabrl import OfflinePolicyEstimator

_GAMMA = 0.99
_SURE = 0.95
BEHAVIOURS = ("uniform", "epsilon 0.3", "epsilon 0.05", "softmax")
SIZES = (256, 1024, 4096)


def score_log(name: str, behaviour: str, size: int, seed: int) -> dict[str, Any]:
    """Fit one log and say what its intervals hold.

    Parameters
    ----------
    name, behaviour : str
        As for `environment` and `behaviour_policy`.
    size, seed : int
        Transitions of the log, and which one it is.

    Returns
    -------
    dict
        The parameters, whether the intervals hold ``policy`` and ``behaviour_value``,
        ``improvement``, the probability of it, and whether it is ``better``.
    """
    env = environment(name, _GAMMA)
    pi_b = behaviour_policy(env, behaviour)
    names = [zlib.crc32(text.encode()) for text in (name, behaviour)]
    log = env.simulate(pi_b, size, np.random.default_rng([*names, size, seed]))
    policy = OfflinePolicyEstimator(_GAMMA, handle_unknown="infer", random_state=0)
    policy.fit(log)
    pi = np.zeros_like(pi_b)
    pi[:, policy.actions_] = policy.predict_proba(np.arange(env.n_states))
    exact, exact_b = (float(env.start @ env.policy_value(p)) for p in (pi, pi_b))
    of_policy, of_behaviour = policy.policy_value(), policy.behaviour_value()
    return {
        "environment": name,
        "behaviour": behaviour,
        "size": size,
        "seed": seed,
        "policy": of_policy.low <= exact <= of_policy.high,
        "behaviour_value": of_behaviour.low <= exact_b <= of_behaviour.high,
        "improvement": policy.probability_of_improvement(),
        "better": exact > exact_b,
    }


def summarise(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return shares over logs: what intervals hold, and which claims are wrong.

    Examples
    --------
    >>> row = {"policy": True, "behaviour_value": False, "better": False}
    >>> summarise([{**row, "improvement": 0.99}, {**row, "improvement": 0.5}])
    {'policy': 1.0, 'behaviour_value': 0.0, 'claims': 0.5, 'wrong': 1.0}
    """
    rows = list(rows)
    claims = [row for row in rows if row["improvement"] > _SURE]
    wrong = [not row["better"] for row in claims]
    return {
        "policy": float(np.mean([row["policy"] for row in rows])),
        "behaviour_value": float(np.mean([row["behaviour_value"] for row in rows])),
        "claims": len(claims) / len(rows),
        "wrong": float(np.mean(wrong)) if wrong else 0.0,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; ``--seeds`` and ``--first`` choose the logs of each cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", nargs="*", default=ENVIRONMENT_NAMES)
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first", type=int, default=0)
    chosen = parser.parse_args(arguments)
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    cells = product(chosen.environments, BEHAVIOURS, chosen.sizes, seeds)
    rows = [score_log(*cell) for cell in cells]
    for column in ("environment", "behaviour", "size"):
        for value in dict.fromkeys(row[column] for row in rows):
            part = summarise(row for row in rows if row[column] == value)
            print(f"{value!s:28}", *(f"{k} {v:.3f}" for k, v in part.items()))
    print(f"{'all':28}", *(f"{k} {v:.3f}" for k, v in summarise(rows).items()))


if __name__ == "__main__":
    main()
