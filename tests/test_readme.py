"""README and the documents it leads to: links, commands and snippets are true."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CARD = ROOT / "tabrl" / "checkpoint" / "README.md"
MANUAL, JOURNAL = (ROOT / "pretraining" / name for name in ("README.md", "JOURNAL.md"))
DOCUMENTS = (README, MANUAL, JOURNAL, CARD)
MAX_LINES = 150  # a newcomer reads it in five minutes


def links(text: str) -> list[str]:
    """Return the targets of relative links and images, without anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [t.partition("#")[0] for t in targets if "://" not in t and t[0] != "#"]


def modules(text: str) -> set[str]:
    """Return the modules that are run with -m, even where a line breaks after it."""
    found = re.findall(r"-m\s+((?:pretraining|tabrl)[\w.]*)", text)
    return {name.rstrip(".") for name in found}


def snippets(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def missing_modules(names: set[str]) -> set[str]:
    missing = set()
    for name in names:
        file = ROOT.joinpath(*name.split("."))
        if not file.with_suffix(".py").exists() and not (file / "__main__.py").exists():
            missing.add(name)
    return missing


def test_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_resolve(path):
    broken = [
        t for t in links(path.read_text("utf-8")) if not (path.parent / t).exists()
    ]
    assert not broken


def test_readme_leads_to_the_other_documents():
    targets = {(ROOT / target).resolve() for target in links(README.read_text("utf-8"))}
    assert {MANUAL, JOURNAL, CARD} <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_modules_of_commands_exist(path):
    assert not missing_modules(modules(path.read_text("utf-8")))


def test_the_manual_names_every_command():
    names = modules(MANUAL.read_text("utf-8"))
    assert {"pretraining.recipe.train", "pretraining.benchmark"} <= names
    assert len(names) >= 7


def test_a_broken_link_or_module_is_found():
    text = "[a](b/c.md#d) [e](https://f) `python -m\npretraining.nothing --out x`."
    assert links(text) == ["b/c.md"]
    assert modules(text) == {"pretraining.nothing"}
    assert missing_modules(modules(text)) == {"pretraining.nothing"}


def test_scripts_of_commands_exist():
    text = README.read_text("utf-8") + MANUAL.read_text("utf-8")
    names = set(
        re.findall(r"\b(?:pretraining|examples|tests)/[\w/.-]+\.(?:py|sh)", text)
    )
    assert len(names) >= 5
    assert not [name for name in names if not (ROOT / name).exists()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_compiles(path):
    for snippet in snippets(path.read_text("utf-8")):
        compile(snippet, path.name, "exec")


def test_snippets_of_readme_run(monkeypatch):
    for package in ("pandas", "gymnasium"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    import sklearn

    monkeypatch.chdir(ROOT)
    offline, online, pipeline = snippets(README.read_text("utf-8"))
    names: dict = {}
    exec(offline, names)
    assert set(names["policy"].states_) == set(range(16))
    online, n_changed = re.subn(r"n_episodes=\d+", "n_episodes=2", online)
    assert n_changed == 1
    exec(online, names)
    assert names["agent"].n_transitions_ > 0
    rng = np.random.default_rng(0)
    names["X"], names["X_next"] = rng.normal(size=(2, 60, 2))
    names["actions"], names["ended"] = rng.integers(2, size=60), rng.random(60) < 0.1
    names["r"] = rng.normal(size=60)
    with sklearn.config_context():  # the snippet sets an option
        exec(pipeline, names)
        assert names["model"].predict(names["X"]).shape == (60,)
