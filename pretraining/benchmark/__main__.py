"""Run the benchmark: ``python -m pretraining.benchmark offline [--quick]``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretraining.benchmark.cells import ResultsError
from pretraining.benchmark.environments import (
    DEVELOPMENT,
    ENVIRONMENT_NAMES,
    FOREIGN,
    FOREIGN_NAMES,
)
from pretraining.benchmark.parts import bandit, offline, online, speed
from pretraining.benchmark.report import readme as texts
from pretraining.benchmark.report.readme import ReportError
from pretraining.benchmark.report.summary import (
    SUMMARY,
    read_summary,
    summarise,
    write_summary,
)
from pretraining.benchmark.report.table import markdown
from pretraining.benchmark.report.tables import part_tables

_MODULES: dict[str, Any] = {
    "offline": offline,
    "online": online,
    "bandit": bandit,
    "speed": speed,
}
_ALL = "all"
_HELP = {
    "offline": "one policy from one log",
    "online": "regret of every episode, and episodes until solved",
    "bandit": "Bernoulli bandits",
    "speed": "time and memory from a log to a policy",
    _ALL: "the four of them",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pretraining.benchmark",
        description="Exact scores on known processes, as Markdown tables.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in _HELP.items():
        command = commands.add_parser(name, help=text, description=f"Score {text}.")
        _add_options(command, name)
    _add_report(commands)
    return parser


def _add_report(commands: Any) -> None:
    command = commands.add_parser(
        "report",
        help="tables and pictures of finished results",
        description="Summarise result files; write RESULTS.md, README's tables and "
        "its picture.",
    )
    add = command.add_argument
    add("folder", type=Path, nargs="?", help="with result files; else the summary's")
    add("--summary", type=Path, default=SUMMARY, help=argparse.SUPPRESS)
    add(
        "--results",
        type=Path,
        default=texts.RESULTS,
        help="file for all tables; default: that of the repository",
    )
    add(
        "--readme",
        type=Path,
        default=texts.README,
        help="its benchmark blocks are filled; default: that of the repository",
    )
    add(
        "--overview",
        type=Path,
        default=texts.OVERVIEW,
        help="README's picture; default: that of the repository",
    )
    add("--figures", type=Path, help="folder for the pictures of the folder's results")
    add(
        "--check",
        action="store_true",
        help="write nothing; fail if --results or --readme do not show the summary, or "
        "if that is not of the bundled checkpoint",
    )


def _add_options(command: argparse.ArgumentParser, part: str) -> None:
    add = command.add_argument
    add("--quick", action="store_true", help="a small protocol that shows it works")
    add(
        "--checkpoint",
        default="auto",
        help="what tabrl's estimators take; default: %(default)s",
    )
    add("--output", type=Path, help="folder for the result files, to go on from")
    add("--restart", action="store_true", help="start the result files anew")
    if part == "speed":
        return
    some = command.add_mutually_exclusive_group()
    some.add_argument("--baselines-only", action="store_true", help="leave tabrl out")
    some.add_argument("--tabrl-only", action="store_true", help="tabrl alone")
    add("--jobs", type=int, default=2, help="processes; default: %(default)s")
    if part == "bandit":
        return
    add("--seeds", type=int, help="logs or runs of each kind")
    names = ENVIRONMENT_NAMES + FOREIGN_NAMES
    add(
        "--environments",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"some of {', '.join(names)}",
    )
    add("--seed-model", metavar="FOLDER", help="a trained seed_model to run too")
    add("--neural", action="store_true", help="train d3rlpy's and DQN's networks too")
    if part in ("offline", _ALL):
        add(
            "--worlds",
            choices=(DEVELOPMENT, FOREIGN, _ALL),
            default=_ALL if part == _ALL else DEVELOPMENT,
            help="those that the project was developed on, others, or both; "
            "of the offline part; default: %(default)s",
        )
    if part == "offline":
        add("--gamma", type=float, nargs="+", help="discount factors")
        add("--sizes", type=int, nargs="+", help="transitions of a log")


def _base(part: str, quick: bool, worlds: str) -> Any:
    """Return the protocol of a part for a group of worlds."""
    module = _MODULES[part]
    if worlds == FOREIGN:
        return module.QUICK_FOREIGN if quick else module.FOREIGN
    return module.QUICK if quick else module.Protocol()


def _protocol(part: str, arguments: argparse.Namespace, worlds: str) -> Any:
    """Return the protocol of a part with what the arguments change."""
    base = _base(part, arguments.quick, worlds)
    given = vars(arguments)
    changes: dict[str, Any] = {
        "checkpoint": None if given.get("baselines_only") else arguments.checkpoint
    }
    if part != "speed":
        changes["baselines"] = not given.get("tabrl_only")
    if part in ("offline", "online"):
        changes["seed_model"] = arguments.seed_model
        changes["environments"] = arguments.environments
        changes["n_seeds"] = arguments.seeds
    if part == "offline":
        changes["gammas"], changes["sizes"] = given.get("gamma"), given.get("sizes")
        changes["d3rlpy"] = arguments.neural or None
    if part == "online":
        changes["dqn"] = arguments.neural or None
    left = {k: v for k, v in changes.items() if v is not None or k == "checkpoint"}
    return dataclasses.replace(base, **left)


def _groups(part: str, arguments: argparse.Namespace) -> list[str]:
    """Return the groups of worlds that a part is run on, each with its protocol."""
    if part != "offline" or arguments.worlds == DEVELOPMENT:
        return [DEVELOPMENT]
    return [FOREIGN] if arguments.worlds == FOREIGN else [DEVELOPMENT, FOREIGN]


def _run(part: str, arguments: argparse.Namespace, worlds: str) -> None:
    options: dict[str, Any] = {"restart": arguments.restart}
    if part != "speed":
        options["jobs"] = arguments.jobs
    if arguments.output is not None:
        kinds = ("baselines", "tabrl")
        kind = [f"-{kind}" for kind in kinds if vars(arguments).get(f"{kind}_only")]
        kind += [f"-{worlds}"] * (worlds != DEVELOPMENT)
        options["output"] = arguments.output / f"{part}{''.join(kind)}.jsonl"
    rows = _MODULES[part].run(_protocol(part, arguments, worlds), **options)
    for name, table in part_tables(part, rows).items():
        sys.stdout.write(f"### {name}\n\n{markdown(table)}\n\n")


def _report(arguments: argparse.Namespace) -> None:
    if arguments.folder is None:
        if arguments.figures is not None:
            raise ReportError("--figures needs the folder with the result files.")
        summary = read_summary(arguments.summary)
    else:
        summary = summarise(arguments.folder)
    readme = arguments.readme.read_text(encoding="utf-8")
    expected = {
        arguments.readme: texts.fill(readme, summary),
        arguments.results: texts.results_text(summary),
    }
    if arguments.check:
        texts.check_weights(summary)
        for path, text in expected.items():
            texts.check(path.read_text(encoding="utf-8"), text, path.name)
        return
    from pretraining.benchmark.report.figures import draw, draw_overview

    if arguments.folder is not None:
        write_summary(summary, arguments.summary)
    for path, text in expected.items():
        path.write_text(text, encoding="utf-8")
    drawn = draw_overview(summary, arguments.overview)
    if arguments.figures is not None:
        drawn += draw(arguments.folder, arguments.figures)
    for path in [*expected, *drawn]:
        sys.stdout.write(f"{path}\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.
    """
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "report":
            _report(arguments)
        for part in _MODULES:
            if arguments.command in (part, _ALL):
                for worlds in _groups(part, arguments):
                    _run(part, arguments, worlds)
    except (ResultsError, ReportError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
