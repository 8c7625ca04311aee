"""Data flows one way, and imports follow it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module may import those before it.
ORDER = (
    "_checks",
    "_files",
    "_labels",
    "_times",
    "_codes",
    "_columns",
    "_transitions",
    "_states",
    "_statistics",
    "_dead_ends",
    "_tally",
    "_features",
    "_network",
    "_exploration",
    "_planning",
    "_inference",
    "_checkpoint",
    "_persistence",
    "_reading",
    "_environments",
    "_offline",
    "_online",
    "__init__",
    "__main__",
)
# What each may import from outside, beside the standard library.
THIRD_PARTY = {
    "_checks": {"numpy", "torch"},
    "_labels": {"numpy", "narwhals"},
    "_times": {"numpy"},
    "_codes": {"numpy"},
    "_states": {"numpy"},
    "_columns": {"numpy", "narwhals"},
    "_transitions": {"numpy", "narwhals"},
    "_statistics": {"numpy", "scipy"},
    "_tally": {"numpy"},
    "_environments": {"numpy", "gymnasium"},
    "_features": {"numpy", "scipy", "torch"},
    "_network": {"torch"},
    "_exploration": {"numpy", "torch"},
    "_planning": {"numpy", "scipy", "torch"},
    "_inference": {"numpy", "torch"},
}


def imports(source: str) -> list[tuple[int, str]]:
    """Return level and full name of everything imported, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            found += [(node.level, f"{base}.{alias.name}") for alias in node.names]
    return found


def imported_modules(source: str) -> set[str]:
    """Return the modules of tabrl that a source imports, by their short names."""
    found = set()
    for _, name in imports(source):
        package, _, rest = name.partition(".")
        if package == "tabrl":
            module = rest.partition(".")[0]
            found.add(module if module in ORDER else "__init__")
    return found


def wrong_arrows(name: str, source: str) -> set[str]:
    """Return the modules that `name` must not import and does."""
    return imported_modules(source) - set(ORDER[: ORDER.index(name)])


def files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert found
    return sorted(found)


def test_the_order_names_every_module():
    assert {path.stem for path in files("tabrl")} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_arrows_point_one_way(name):
    source = (ROOT / "tabrl" / f"{name}.py").read_text()
    assert not wrong_arrows(name, source)


def test_an_arrow_the_other_way_is_found():
    for line in (
        "from tabrl._offline import OfflinePolicyEstimator",
        "import tabrl._network",
        "from tabrl import _planning",
        "def f():\n    from tabrl._network import Network",
        "from tabrl import OfflinePolicyEstimator",
        "import tabrl",
    ):
        assert wrong_arrows("_features", line), line
    assert not wrong_arrows("_features", "from tabrl._statistics import Statistics")


@pytest.mark.parametrize("name", THIRD_PARTY)
def test_what_a_module_needs_from_outside(name):
    source = (ROOT / "tabrl" / f"{name}.py").read_text()
    outside = {full.partition(".")[0] for _, full in imports(source)}
    heavy = {"numpy", "scipy", "torch", "narwhals", "sklearn", "safetensors", "pandas"}
    heavy |= {"polars", "pyarrow", "huggingface_hub", "matplotlib", "gymnasium"}
    assert outside & heavy <= THIRD_PARTY[name]


def test_the_package_and_the_examples_never_import_the_recipe():
    for path in files("tabrl", "examples"):
        packages = {name.partition(".")[0] for _, name in imports(path.read_text())}
        assert not packages & {"pretraining", "tests"}, path


def test_all_imports_are_absolute():
    for path in files("tabrl", "pretraining", "examples", "tests"):
        assert not [name for level, name in imports(path.read_text()) if level], path
