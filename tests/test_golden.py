"""Golden predictions of the bundled checkpoint on a small fixed log.

They change with the checkpoint and with anything between the log and the policy. Look
at what changed and why before `python tests/test_golden.py` writes them anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tabrl import OfflinePolicyEstimator

GOLDEN = Path(__file__).with_name("golden.json")
COMMAND = "python tests/test_golden.py"
# Two ways from a to the prize at d: through b, surely, or through c, which may end.
# Nobody tried to skip from b, and e was seen once.
ROWS = (
    [("a", "walk", -0.1, "b", False)] * 6
    + [("a", "skip", -0.1, "c", False)] * 4
    + [("a", "skip", -0.1, "a", False)] * 2
    + [("b", "walk", -0.1, "d", False)] * 5
    + [("c", "walk", 0.0, "d", False)] * 2
    + [("c", "walk", -1.0, "end", True)] * 2
    + [("c", "skip", 0.5, "end", True)]
    + [("d", "walk", 1.0, "end", True)] * 7
    + [("d", "skip", 0.2, "e", False)]
)
PARAMETERS = (
    {"gamma": 0.9},
    {"gamma": 0.99},
    {"gamma": 0.99, "reward_range": (-1.0, 1.0)},
)


def predictions() -> list[dict]:
    """Return what the bundled checkpoint says of the log, in plain numbers."""
    names = ("state", "action", "reward", "next_state", "terminated")
    log = dict(zip(names, map(list, zip(*ROWS, strict=True)), strict=True))
    found = []
    for parameters in PARAMETERS:
        policy = OfflinePolicyEstimator(**parameters, random_state=0).fit(log)
        states = policy.states_
        values = {
            f"values at {q}": policy.action_values(states, q) for q in (0.1, 0.5, 0.9)
        }
        tables = {"policy": policy.predict_proba(states), **values}
        found.append(
            {
                "states": states.tolist(),
                "actions": policy.actions_.tolist(),
                **{
                    name: [[float(f"{x:.8g}") for x in row] for row in table.tolist()]
                    for name, table in tables.items()
                },
            }
        )
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="other libraries round otherwise")
def test_golden_predictions():
    golden = json.loads(GOLDEN.read_text())
    remedy = f"Predictions changed. If that is meant, run: {COMMAND}"
    for found, expected in zip(predictions(), golden, strict=True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if name in ("states", "actions"):
                assert found[name] == value
            else:
                np.testing.assert_allclose(
                    found[name],
                    value,
                    rtol=1e-4,
                    atol=1e-6,
                    err_msg=f"{remedy}\n{name}",
                )


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(predictions(), indent=1) + "\n")
    print(f"Wrote {GOLDEN}")
