"""Pictures of the benchmark's results, drawn into a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from pretraining.benchmark.cells import sort_rows
from pretraining.benchmark.report import offline_figures as offline
from pretraining.benchmark.report import online_figures as online
from pretraining.benchmark.report.coverage import measured
from pretraining.benchmark.report.offline import offline_scores
from pretraining.benchmark.report.online import regret_scores
from pretraining.benchmark.report.readme import CHECKPOINT
from pretraining.benchmark.report.rows import (
    DEVELOPMENT,
    FOREIGN,
    Row,
    of_group,
    read_part,
)
from pretraining.benchmark.report.scores import is_tabrl
from pretraining.benchmark.report.style import headline
from pretraining.benchmark.report.thresholds import compare_rows

_STYLE = {"axes.spines.top": False, "axes.spines.right": False}
_COLOURS = 64
Makers = dict[str, Callable[[], Figure]]


def _offline(rows: Sequence[Row]) -> Makers:
    groups = offline_scores(rows)
    makers: Makers = {
        "offline": lambda: headline(
            groups[0], "normalised value, mean over all logs", digits=3
        ),
        "offline-sizes": lambda: offline.score_by_size(groups),
        "offline-profiles": lambda: offline.profiles(groups),
    }
    if any(map(is_tabrl, groups[0].methods)):
        makers["offline-curves"] = lambda: offline.curves_by_environment(groups)
        ratios = compare_rows(groups)
        if ratios:
            makers["offline-ratios"] = lambda: offline.ratio_profiles(ratios)
    if measured(rows, "coverage"):
        makers["offline-coverage"] = lambda: offline.coverage_by_size(rows)
    return makers


def _online(rows: Sequence[Row]) -> Makers:
    parts = {row["part"] for row in rows}
    makers: Makers = {}
    if parts & {"regret", "foreign"}:
        makers["online"] = lambda: headline(
            regret_scores(rows)[0],
            "regret, mean over environments (less is better)",
            digits=1,
        )
        makers["online-regret"] = lambda: online.regret_curves(rows)
    if "deep sea" in parts:
        makers["online-deep-sea"] = lambda: online.deep_sea(rows)
    return makers


def draw(folder: Path, out: Path) -> list[Path]:
    """Draw the pictures of a folder of result files, and the bundled calibration.

    Parameters
    ----------
    folder : Path
        With the result files.
    out : Path
        Folder for the pictures, PNG.

    Returns
    -------
    list of Path
        The pictures.
    """
    figures: Makers = {}
    for part, makers_of in (("offline", _offline), ("online", _online)):
        _, rows = read_part(folder, part)
        for group in (DEVELOPMENT, FOREIGN):
            found = of_group(sort_rows(rows), group)
            ending = "" if group == DEVELOPMENT else f"-{group}"
            if found:
                for name, make in makers_of(found).items():
                    figures[name + ending] = make
    config = json.loads(CHECKPOINT.read_text())
    if "below_low" in config.get("validation", {}):
        figures["calibration"] = lambda: offline.calibration(config["validation"])
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    with mpl.rc_context(_STYLE):
        for name, make in figures.items():
            paths.append(out / f"{name}.png")
            make().savefig(paths[-1], dpi=130, bbox_inches="tight")
    return paths


def draw_overview(summary: Mapping[str, Any], path: Path) -> list[Path]:
    """Draw README's picture from a summary, if that has offline results of tabrl.

    Parameters
    ----------
    summary : mapping
        From `summarise`.
    path : Path
        The picture, PNG.

    Returns
    -------
    list of Path
        The picture, if there is one.
    """
    sizes = summary["tables"].get("offline-sizes")
    if sizes is None or not any(is_tabrl(row[0]) for row in sizes["rows"]):
        return []
    with mpl.rc_context(_STYLE):
        drawn = BytesIO()
        offline.overview(sizes).savefig(drawn, dpi=110, bbox_inches="tight")
    # Few colours make it small enough to be committed.
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(_COLOURS).save(path, optimize=True)
    return [path]
