"""Run the benchmark: ``python -m pretraining.benchmark offline [--quick]``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from pretraining.benchmark import offline
from pretraining.benchmark.environments import ENVIRONMENT_NAMES
from pretraining.benchmark.report import Results, report


def _listed(values: Sequence[object]) -> str:
    return " ".join(map(str, values))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pretraining.benchmark",
        description="Exact scores on known processes, as Markdown tables.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "offline",
        help="one policy from one log",
        description="Score tabrl and its baselines on logs of known processes.",
    )
    default = offline.Protocol()
    command.add_argument(
        "--quick",
        action="store_true",
        help="2 seeds, 2 sizes and 4 environments, unless these are given",
    )
    tabrl = command.add_mutually_exclusive_group()
    tabrl.add_argument(
        "--checkpoint",
        default=default.checkpoint,
        help="what OfflinePolicyEstimator takes; default: %(default)s",
    )
    tabrl.add_argument("--baselines-only", action="store_true", help="leave tabrl out")
    command.add_argument(
        "--gamma",
        type=float,
        nargs="+",
        default=default.gammas,
        help=f"discount factors; default: {_listed(default.gammas)}",
    )
    command.add_argument(
        "--seeds", type=int, help=f"logs a cell; default: {default.n_seeds}"
    )
    command.add_argument(
        "--sizes", type=int, nargs="+", help=f"default: {_listed(default.sizes)}"
    )
    command.add_argument(
        "--environments",
        nargs="+",
        choices=ENVIRONMENT_NAMES,
        metavar="NAME",
        help=f"default: {_listed(ENVIRONMENT_NAMES)}",
    )
    command.add_argument("--jobs", type=int, default=2, help="processes; default: 2")
    command.add_argument("--output", type=Path, help="file for the rows, JSON lines")
    return parser


def _protocol(arguments: argparse.Namespace) -> offline.Protocol:
    full, quick = offline.Protocol(), offline.QUICK
    base = quick if arguments.quick else full
    checkpoint = None if arguments.baselines_only else arguments.checkpoint
    return dataclasses.replace(
        base,
        checkpoint=checkpoint,
        gammas=tuple(arguments.gamma),
        n_seeds=arguments.seeds or base.n_seeds,
        sizes=tuple(arguments.sizes or base.sizes),
        environments=tuple(arguments.environments or base.environments),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.
    """
    arguments = _parser().parse_args(argv)
    rows = offline.run(
        _protocol(arguments), output=arguments.output, n_jobs=arguments.jobs
    )
    sys.stdout.write(report(Results(rows), preferred=offline.PREFERRED) + "\n")


if __name__ == "__main__":
    main()
