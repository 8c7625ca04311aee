"""The tables in README, and all of them in RESULTS.md.

Both are functions of the summary alone, so that a clone without the raw results can
check that they show what was measured. README has the tables between
``<!-- benchmark: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretraining.benchmark.report.rows import FOREIGN
from pretraining.benchmark.report.table import markdown

ROOT = Path(__file__).parents[3]
CHECKPOINT = ROOT / "tabrl" / "checkpoint" / "config.json"
README = ROOT / "README.md"
OVERVIEW = ROOT / "pretraining" / "benchmark" / "overview.png"
RESULTS = ROOT / "pretraining" / "benchmark" / "RESULTS.md"
_BLOCK = re.compile(r"(<!-- benchmark: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_REMEDY = "Run python -m pretraining.benchmark report."
# Pictures that `report --figures` draws, and what each shows.
PICTURES = {
    "offline": "Mean offline score of each method, with its interval.",
    "offline-sizes": "Offline score against the size of the log, a panel a behaviour.",
    "offline-curves": "Learning curve of every environment, mean over behaviours and "
    "logs. A cross marks a sure fall of the greedy policy under some behaviour.",
    "offline-profiles": "Share of the logs with at least a given score.",
    "offline-ratios": "Share of environments and behaviours in which the greedy policy "
    "needs a given number of times fewer rows to 0.9 of the optimum, or better.",
    "offline-coverage": "Share of visited pairs whose optimal value lies in the 80% "
    "interval, by size of the log, a line an environment.",
    "online": "Mean regret of each method, with its interval.",
    "online-regret": "Cumulative regret by episode, a panel an environment.",
    "online-deep-sea": "Episodes until DeepSea is solved, by its size.",
    "calibration": "Stated against found quantiles, on processes of the prior.",
}
_INTRODUCTION = """# Results of the benchmark

Every policy is scored exactly, by a linear solve on the known process. The classical
methods are shown with the constant that is best in each environment, chosen after
seeing the scores; tabrl has none. Environments of development were in use while tabrl
was made; on the foreign ones nothing was chosen.
`python -m pretraining.benchmark report FOLDER` writes this file from the result files
of FOLDER, and a test checks it."""
# With the beginnings of their tables' names, of which the longest that fits decides;
# losses come first.
_LOSSES = "Where tabrl loses"
_SECTIONS = {
    "From a log, environments of development": "offline",
    "From a log, foreign environments": f"offline-{FOREIGN}",
    "Exploring, environments of development": "online",
    "Exploring, foreign environments": f"online-{FOREIGN}",
    "Bernoulli bandits": "bandit",
    "Time and memory": "speed",
    "Environments and provenance": "",
}


class ReportError(ValueError):
    """Results, summary and README that do not belong together."""


def fill(text: str, summary: Mapping[str, Any]) -> str:
    """Put the tables of a summary between the markers of a text.

    Parameters
    ----------
    text : str
        Markdown with ``<!-- benchmark: NAME -->`` and ``<!-- end -->`` lines.
    summary : mapping
        From `summarise`.

    Returns
    -------
    str
        The text with its tables.

    Raises
    ------
    ReportError
        If a name is unknown, or a marker has no end.
    """
    tables = summary["tables"]

    def block(match: re.Match[str]) -> str:
        start, name, _, end = match.groups()
        if name not in tables:
            known = ", ".join(tables)
            raise ReportError(f"A marker must name one of {known}. Got {name!r}.")
        return f"{start}\n{markdown(tables[name])}\n\n{end}"

    found = _BLOCK.findall(text)
    n_starts = text.count("<!-- benchmark: ")
    # A block that swallows the start of another has lost its own end.
    swallowed = any("<!-- benchmark: " in body for _, _, body, _ in found)
    if len(found) != n_starts or swallowed:
        raise ReportError(
            "Each <!-- benchmark: NAME --> needs its <!-- end -->. Found "
            f"{n_starts} of the first and {len(found)} whole blocks."
        )
    return _BLOCK.sub(block, text)


def results_text(summary: Mapping[str, Any]) -> str:
    """Write RESULTS.md: every table but README's short ones, the losses first.

    Parameters
    ----------
    summary : mapping
        From `summarise`.
    """
    tables = {
        name: table
        for name, table in summary["tables"].items()
        if not name.startswith("short-")
    }
    sections: dict[str, list[str]] = {title: [] for title in (_LOSSES, *_SECTIONS)}
    for name in tables:
        sections[_section(name)].append(name)
    contents, parts = [], []
    for title, names in sections.items():
        if names:
            links = ", ".join(f"[{name}](#{name})" for name in names)
            contents.append(f"- {title}: {links}")
            parts.append(f"## {title}")
            parts += [f"### {name}\n\n{markdown(tables[name])}" for name in names]
    parts = [_INTRODUCTION, "\n".join([*contents, "- [Pictures](#pictures)"]), *parts]
    captions = [f"- `{name}.png`: {text}" for name, text in PICTURES.items()]
    parts += [
        "## Pictures\n\n`report FOLDER --figures OUT` draws them into OUT, those for "
        "which there are rows. Environments that development never saw have pictures "
        f"of their own, with `-{FOREIGN}` in the name.",
        "\n".join(captions),
    ]
    return "\n\n".join(parts) + "\n"


def _section(name: str) -> str:
    """Return the title of the section of a table."""
    if "-losses" in name:
        return _LOSSES
    fitting = [title for title, start in _SECTIONS.items() if name.startswith(start)]
    return max(fitting, key=lambda title: len(_SECTIONS[title]))


def check(text: str, expected: str, name: str) -> None:
    """Require that a text is what the summary makes of it.

    Parameters
    ----------
    text : str
        Markdown with tables.
    expected : str
        From `fill` or `results_text`.
    name : str
        Name of the file, for the error.

    Raises
    ------
    ReportError
        If not.
    """
    if text == expected:
        return
    found, wanted = text.splitlines(), expected.splitlines()
    pairs = zip(found, wanted, strict=False)
    number = next(
        (i for i, (line, other) in enumerate(pairs) if line != other),
        min(len(found), len(wanted)),
    )
    shown = [repr(x[number]) if number < len(x) else "nothing" for x in (wanted, found)]
    raise ReportError(
        f"Line {number + 1} of {name} must be {shown[0]} by the results. Found "
        f"{shown[1]}. {_REMEDY}"
    )


def check_weights(summary: Mapping[str, Any]) -> None:
    """Require that a summary is of the bundled weights.

    Raises
    ------
    ReportError
        If not.
    """
    bundled = json.loads(CHECKPOINT.read_text())["sha256"]
    if summary["checkpoint"] != bundled:
        raise ReportError(
            f"The results must be of the bundled checkpoint, {bundled}. They are of "
            f"{summary['checkpoint']}: run the benchmark again."
        )
