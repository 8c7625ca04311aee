"""Every example runs as a script, anywhere, and draws its figure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Beside its picture: a page.
WRITES = {"plot_03_sepsis": [".html", ".png"]}


@pytest.mark.parametrize(
    "script", sorted((ROOT / "examples").glob("plot_*.py")), ids=lambda path: path.stem
)
def test_example_runs_and_draws(script, tmp_path):
    run = subprocess.run(
        # The deprecations of older versions, which are warnings for users too, pass.
        [
            *(sys.executable, "-W", "error::UserWarning"),
            *("-W", "default::DeprecationWarning", str(script)),
        ],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    written = sorted(path.suffix for path in tmp_path.iterdir())
    assert written == WRITES.get(script.stem, [".png"])
