"""The recipe as its scripts run it: from the prior to an estimator, reproducibly."""

from __future__ import annotations

import ast
import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib
import pytest
import torch

from pretraining.recipe.export import export
from pretraining.recipe.train import TrainConfig, train
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
    # One of the command, in a process of its own, and two of the function in this one.
    path = tmp_path / "config.json"
    path.write_text(json.dumps(asdict(config)))
    arguments = ["--config", path, "--out", tmp_path / "one", "--device", "cpu"]
    run("python3", "-m", "pretraining.recipe.train", *arguments, "--threads", 1)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, seed in (("two", 0), ("other", 1)):
        cpu = torch.device("cpu")
        train(replace(config, seed=seed), tmp_path / name, cpu, n_workers=0)
    torch.set_num_threads(n_threads)
    for name in ("one", "two", "other"):
        out = tmp_path / name
        export(out, out / "checkpoint")
        digests.append(read_config(out / "checkpoint")["sha256"])
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


# A module of the recipe may import those before it.
ORDER = ("targets", "simulate", "loss", "groups", "run", "train", "export")


def wrong_arrows(name: str, source: str) -> set[str]:
    """Return the modules of the recipe that `name` must not import and does."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = [imported.split(".") for imported in names]
    recipe = {part[2] for part in parts if part[:2] == ["pretraining", "recipe"]}
    later = {"benchmark", "validation"}
    upwards = {part[1] for part in parts if part[0] == "pretraining"} & later
    return recipe - set(ORDER[: ORDER.index(name)]) | upwards


def test_each_module_of_the_recipe_imports_only_those_before_it():
    modules = {path.stem: path for path in (ROOT / "pretraining/recipe").glob("*.py")}
    del modules["__init__"]
    assert modules.keys() == set(ORDER)
    for name, path in modules.items():
        assert not wrong_arrows(name, path.read_text()), name
    for line in (
        "from pretraining.recipe.loss import WEIGHTS",
        "from pretraining.recipe import loss",
        "import pretraining.recipe.loss",
        "from pretraining.validation.sets import SEED",
    ):
        assert wrong_arrows("simulate", line), line


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
