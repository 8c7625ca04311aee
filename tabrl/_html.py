"""What a notebook shows of a policy or an agent, beside scikit-learn's own diagram."""

from __future__ import annotations

import html
import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabrl._dead_ends import warn_of_dead_ends
from tabrl._labels import python_values

# Labels in a notebook's summary: what fits in a line or two.
_SHOWN = 8
# Characters of a label: a tuple of 20 features would fill the page.
_LONGEST = 80


def label_text(label: Any) -> str:
    """Return a label as text for people, shortened; it is not escaped."""
    if isinstance(label, tuple):
        text = ", ".join(map(label_text, label))
    else:
        text = f"{label:.6g}" if isinstance(label, float) else str(label)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def number_text(value: float) -> str:
    """Return a number with three digits that count; a dash where it is not finite.

    Examples
    --------
    >>> number_text(1234.5), number_text(0.012345), number_text(-20)
    ('1,234', '0.0123', '-20.0')
    """
    if not math.isfinite(value):
        return "\N{EN DASH}"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if not -4 <= size < 12:
        return f"{value:.3g}"
    return f"{value:,.{max(0, 2 - size)}f}"


def fit_warnings(policy: Any) -> list[str]:
    """Return what `fit` warns of, for a policy or an agent: it follows from the counts.

    Parameters
    ----------
    policy : OfflinePolicyEstimator or OnlineAgent
        Fitted.

    Returns
    -------
    list of str
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_dead_ends(policy.statistics_, policy.states_)
    return [str(warning.message) for warning in caught]


def notebook_summary(policy: Any) -> str:
    """Return a table of what a fitted policy or an agent knows, as HTML.

    Parameters
    ----------
    policy : OfflinePolicyEstimator or OnlineAgent
        Fitted, or with transitions.

    Returns
    -------
    str
        All labels are escaped.
    """
    statistics = policy.statistics_
    decided = len(np.unique(statistics.pair_state))
    rows = {
        "rows": f"{policy.n_transitions_:,}",
        "states": f"{len(policy.states_):,}, of which {decided:,} with rows: "
        + _some(policy.states_),
        "actions": f"{len(policy.actions_):,}: {_some(policy.actions_)}",
    }
    return _table("Data", rows, fit_warnings(policy))


def parameters_table(name: str, parameters: dict[str, Any]) -> str:
    """Return a table of parameters as HTML, for what is no estimator of scikit-learn.

    Parameters
    ----------
    name : str
        Its heading.
    parameters : dict
        By name.

    Returns
    -------
    str
        All values are escaped.
    """
    return _table(name, {key: repr(value) for key, value in parameters.items()}, [])


def _some(labels: NDArray) -> str:
    shown = ", ".join(map(label_text, python_values(labels[:_SHOWN])))
    return shown + ("" if len(labels) <= _SHOWN else ", …")


def _table(caption: str, rows: dict[str, str], notes: list[str]) -> str:
    # Notebooks have light and dark themes: no colour of our own.
    body = "".join(
        f"<tr><th scope='row' style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    listed = "".join(f"<p><b>Warning:</b> {html.escape(note)}</p>" for note in notes)
    return (
        f"<div class='tabrl'><table><caption>{html.escape(caption)}</caption>"
        f"<tbody>{body}</tbody></table>{listed}</div>"
    )
