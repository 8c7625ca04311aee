"""What to say when the package that an environment comes from is missing."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType


def folder(module: str, package: str) -> Path:
    """Where a package lies, without importing it.

    Parameters
    ----------
    module : str
        What one would import.
    package : str
        What one would install.

    Returns
    -------
    Path
        Its folder.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise _missing(module, package)
    return Path(spec.origin).parent


def load(module: str, package: str) -> ModuleType:
    """Import a module; parameters and errors as for `folder`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(error.name or module, package) from error


def _missing(module: str, package: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"This environment needs the package {package}. No module named {module!r} "
        "was found. Install it with `sh pretraining/benchmark/install.sh`.",
        name=module,
    )
