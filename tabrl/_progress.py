"""Progress bars."""

from __future__ import annotations

from typing import Any


def bar(**options: Any) -> Any:
    """Return a bar of tqdm, which is a context manager.

    Parameters
    ----------
    **options
        Those of tqdm.

    Raises
    ------
    ImportError
        If tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            f"progress_bar=True needs tqdm ({error}). Install it: pip install tqdm."
        ) from None
    return tqdm(**options)
