"""Public packages as peers and as oracles, each of them optional.

``install.sh`` in this folder installs them. A part that needs one that is missing is
left out, and `missing` says so.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec


def is_installed(package: str | None) -> bool:
    """Tell whether a package can be imported; None stands for no package."""
    return package is None or find_spec(package) is not None


def missing(package: str, part: str) -> bool:
    """Tell whether a package is missing, and print what is left out because of it.

    Parameters
    ----------
    package : str
        Name under which it is imported.
    part : str
        What needs it.
    """
    if is_installed(package):
        return False
    sys.stderr.write(
        f"Left out: {part}, as {package} is not installed. "
        "Run pretraining/benchmark/install.sh.\n"
    )
    return True
