"""The recipe as its scripts run it: from the prior to an estimator, reproducibly."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib
import pytest

from pretraining.recipe.export import export
from pretraining.recipe.train import TrainConfig
from pretraining.validation import gallery
from tabrl._checkpoint import read_config

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "pretraining" / "runs"


def run(*command):
    """Run a command of the recipe from the root, with this Python as python3."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=600,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_smoke_recipe_goes_from_the_prior_to_an_estimator(tmp_path):
    run(RUNS / "smoke.sh", tmp_path)
    config = TrainConfig.from_json(RUNS / "smoke.json")
    checkpoint = read_config(tmp_path / "checkpoint")
    assert checkpoint["training"]["steps"] == config.n_steps
    assert checkpoint["training"]["config"] == json.loads(json.dumps(asdict(config)))
    families = {cell["family"] for cell in checkpoint["validation"]["cells"]}
    assert families == set(config.families)
    with (tmp_path / "policy.csv").open() as table:
        rows = list(csv.DictReader(table))
    for state in ("home", "road"):
        total = sum(float(r["probability"]) for r in rows if r["state"] == state)
        assert total == pytest.approx(1)


def test_the_same_seed_gives_the_same_checkpoint(tmp_path):
    config = replace(TrainConfig.from_json(RUNS / "smoke.json"), n_steps=3)
    digests = []
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        out, path = tmp_path / name, tmp_path / f"{name}.json"
        path.write_text(json.dumps(asdict(replace(config, seed=seed))))
        train = ["--config", path, "--out", out, "--device", "cpu", "--threads", 1]
        run("python3", "-m", "pretraining.recipe.train", *train)
        export(out, out / "checkpoint")
        digests.append(read_config(out / "checkpoint")["sha256"])
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_recipes_name_configurations_that_exist():
    for script in RUNS.glob("*.sh"):
        words = script.read_text().split()
        configs = [word for word in words if word.endswith(".json")]
        assert configs
        for config in configs:
            assert (ROOT / config).exists(), config


def test_gallery_draws_a_picture_of_a_family():
    matplotlib.use("Agg")
    figure = gallery.draw("rooms")
    assert figure.get_suptitle().startswith("Rooms:")
    panels = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
    assert len(panels) == 9
    gallery.plt.close(figure)
