"""Results as text that is the same where their numbers are, to the last bit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

# Sums of numpy 1 depend on where in memory an array begins.
_EXACT = np.lib.NumpyVersion(np.__version__) >= "2.0.0"


def bits(rows: Any) -> str:
    """Return JSON of rows, with numbers of 12 digits where numpy rounds by chance."""
    text = json.dumps(rows)
    if _EXACT:
        return text
    return json.dumps(json.loads(text, parse_float=lambda x: f"{float(x):.12g}"))
