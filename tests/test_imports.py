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
    "_next_states",
    "_progress",
    "_engines",
    "_lazy",
    "_states",
    "_statistics",
    "_dead_ends",
    "_batch",
    "_features",
    "_network",
    "_exploration",
    "_planning",
    "_inference",
    "_checkpoint",
    "_persistence",
    "_sufficient",
    "_allowed",
    "_episodes",
    "_draws",
    "_policy_value",
    "_coverage",
    "_evaluation",
    "_reading",
    "_environments",
    "_encoder",
    "_policy",
    "_replanning",
    "_html",
    "_report",
    "_display",
    "datasets",
    "_valuation",
    "_offline",
    "_experience",
    "_online",
    "__init__",
    "__main__",
)
# The floors of pretraining: a package may import those before it.
FLOORS = ("prior", "recipe", "benchmark", "validation")
RECIPE = ("targets", "simulate", "loss", "groups", "run", "train", "export")
# What each may import from outside, beside the standard library.
THIRD_PARTY = {
    "_checks": {"numpy", "torch"},
    "_labels": {"numpy", "narwhals"},
    "_times": {"numpy"},
    "_codes": {"numpy"},
    "_states": {"numpy"},
    "_columns": {"numpy", "narwhals"},
    "_transitions": {"numpy", "narwhals"},
    "_engines": {"dask", "narwhals", "pyarrow"},
    "_lazy": {"narwhals", "numpy"},
    "_next_states": {"narwhals", "numpy"},
    "_statistics": {"numpy"},
    "_batch": {"numpy", "torch"},
    "_encoder": {"numpy"},
    "_policy": {"numpy", "torch"},
    "_replanning": set(),
    "_html": {"numpy"},
    "_report": {"numpy", "narwhals"},
    "_display": {"numpy", "matplotlib"},
    "datasets": {"numpy", "narwhals"},
    "_environments": {"numpy", "gymnasium"},
    "_features": {"numpy", "torch"},
    "_network": {"torch"},
    "_exploration": {"numpy", "torch"},
    "_planning": {"numpy", "scipy", "torch"},
    "_inference": {"numpy", "torch"},
    "_allowed": {"numpy", "narwhals"},
    "_episodes": {"numpy"},
    "_draws": {"numpy", "torch"},
    "_coverage": {"numpy", "torch", "pandas"},
    "_evaluation": {"numpy", "torch"},
    "_policy_value": {"numpy", "scipy", "torch"},
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


def module_of(path: Path) -> str:
    """Return the full name of a file's module; that of a package is its own."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_imported(source: str, modules: set[str]) -> set[str]:
    """Return which of the modules a source imports, wherever it does."""
    found = set()
    for _, name in imports(source):
        while name and name not in modules:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {""}


def floor(module: str) -> tuple[int, int]:
    """Return how high a module of pretraining stands; of two, the lower is imported."""
    _, package, name, *_ = *module.split("."), "", ""
    story = RECIPE.index(name) if package == "recipe" and name else 0
    return FLOORS.index(package), story


def upward_arrows(sources: dict[str, str]) -> set[tuple[str, str]]:
    """Return who imports whom of a higher floor, or of its own in the recipe."""
    return {
        (module, imported)
        for module, source in sources.items()
        for imported in modules_imported(source, set(sources)) - {module}
        if floor(imported) > floor(module)
    }


def circle(sources: dict[str, str]) -> list[str]:
    """Return modules that import each other in a circle, and those that import them."""
    arrows = {
        module: modules_imported(source, set(sources)) - {module}
        for module, source in sources.items()
    }
    # Whoever imports none of those that are left is part of no circle.
    while free := {module for module in arrows if not arrows[module] & arrows.keys()}:
        arrows = {m: arrows[m] for m in arrows if m not in free}
    return sorted(arrows)


@pytest.fixture(scope="module")
def pretraining() -> dict[str, str]:
    """Sources of the modules of pretraining's floors."""
    paths = files(*(f"pretraining/{package}" for package in FLOORS))
    return {module_of(path): path.read_text() for path in paths}


def test_the_floors_are_all_that_there_is_of_pretraining(pretraining):
    tops = {path.relative_to(ROOT).parts[1] for path in files("pretraining")}
    assert tops == {*FLOORS, "__init__.py"}
    recipe = {name for name in pretraining if name.startswith("pretraining.recipe.")}
    assert recipe <= {f"pretraining.recipe.{name}" for name in RECIPE}


def test_pretraining_imports_one_way(pretraining):
    assert not upward_arrows(pretraining)


def test_pretraining_has_no_circle(pretraining):
    assert not circle(pretraining)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("prior", "from pretraining.recipe.targets import solve"),
        ("prior", "import pretraining.benchmark"),
        ("recipe.targets", "from pretraining.recipe import simulate"),
        ("recipe.simulate", "def f():\n    import pretraining.recipe.loss"),
        ("recipe.train", "from pretraining.recipe.export import export"),
        ("recipe.export", "import pretraining.validation.validate"),
        ("benchmark", "from pretraining import validation"),
    ],
)
def test_an_upward_arrow_in_pretraining_is_found(pretraining, module, line):
    name = f"pretraining.{module}"
    assert upward_arrows(pretraining | {name: line}) == {
        (name, *modules_imported(line, set(pretraining)))
    }


def test_a_circle_is_found():
    a, b, c, d = (f"pretraining.benchmark.{name}" for name in "abcd")
    planted = {a: f"import {b}", b: f"from {c} import x", c: f"import {a}", d: ""}
    assert circle(planted) == [a, b, c]
    assert not circle(planted | {c: f"import math, {d}"})
