"""The command line: ``tabrl`` or ``python -m tabrl``."""

from __future__ import annotations

import argparse
import csv
import io
import os
import platform
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import torch

from tabrl import OfflinePolicyEstimator, __version__
from tabrl._allowed import check_taken, read_allowed
from tabrl._checkpoint import fetch_checkpoint, load_network, read_config
from tabrl._checks import check_device
from tabrl._dead_ends import warn_of_dead_ends
from tabrl._files import replacing
from tabrl._labels import python_values
from tabrl._reading import read_batches
from tabrl._sufficient import count, merge

_COLUMNS = ("state", "action", "probability", "value", "low", "high", "visits")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; by default those of the process.

    Returns
    -------
    int
        0, or 2 if the arguments or the data are wrong; the reason is then one line on
        standard error.
    """
    arguments = _parser().parse_args(argv)
    with warnings.catch_warnings(), _terminated_cleanly():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: _complain("warning", message)
        try:
            arguments.run(arguments)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, head for example, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (ImportError, OSError, TypeError, ValueError) as error:
            _complain("error", error)
            return 2
        except KeyboardInterrupt:
            return 130
    return 0


@contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """Let SIGTERM end the process as an exception does: nothing half-written stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _complain(kind: str, message: object) -> None:
    print(f"tabrl: {kind}: {' '.join(str(message).split())}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tabrl", description="Turn a log of transitions into a policy."
    )
    parser.add_argument("--version", action="version", version=f"tabrl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="show versions, device and checkpoint")
    info.add_argument(
        "checkpoint", nargs="?", default="auto", help="default: the bundled one"
    )
    info.set_defaults(run=_info)

    download = commands.add_parser(
        "download", help="download a checkpoint from the Hugging Face Hub and check it"
    )
    download.add_argument("checkpoint", help="org/name or org/name@revision")
    download.set_defaults(run=_download)

    fit = commands.add_parser("fit", help="write the policy of a log as a table")
    _add_log(fit)
    fit.add_argument(
        "-o",
        "--output",
        type=Path,
        help=".csv or .parquet; default: CSV on standard output, nothing with --save",
    )
    fit.add_argument(
        "--save",
        type=Path,
        metavar="POLICY",
        help="keep the fitted policy in a file, for OfflinePolicyEstimator.load; the "
        "log is then in memory as a whole",
    )
    fit.set_defaults(run=_fit)

    report = commands.add_parser(
        "report", help="write a page that shows the policy of a log to people"
    )
    _add_log(report)
    report.add_argument("-o", "--output", type=Path, required=True, help="an HTML file")
    report.set_defaults(run=_report)
    return parser


def _add_log(command: argparse.ArgumentParser) -> None:
    """Add the arguments of a command that learns from a log."""
    command.add_argument(
        "log",
        type=Path,
        metavar="LOG",
        help="CSV, parquet, feather or JSON lines, "
        "compressed perhaps; a folder of parquet files; - for standard input",
    )
    command.add_argument("--encoding", default="utf-8", help="of a CSV; default: utf-8")
    command.add_argument(
        "--gamma", type=float, default=0.99, help="discount factor; default: 0.99"
    )
    command.add_argument(
        "--checkpoint",
        default="auto",
        help="folder or org/name[@revision]; default: the bundled one",
    )
    command.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, ...; default: auto"
    )
    command.add_argument(
        "--reward-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        default=None,
        help="smallest and largest possible reward of a step; default: unknown",
    )


def _info(arguments: argparse.Namespace) -> None:
    config = read_config(arguments.checkpoint)
    network = load_network(arguments.checkpoint, torch.device("cpu"))
    cuda = torch.cuda.is_available()
    run = config.get("training")
    run = run if isinstance(run, dict) else {}
    rows: dict[str, Any] = {
        "tabrl": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": f"cuda ({torch.cuda.get_device_name()})" if cuda else "cpu",
        "checkpoint": arguments.checkpoint,
        "sha256": config["sha256"],
        "parameters": sum(p.numel() for p in network.parameters()),
        "licence": config.get("license", "unknown"),
        "training": f"{run.get('steps', '?')} steps, {run.get('hours', '?')} hours on "
        f"{run.get('hardware', '?')}",
    }
    for name, score in _validation(config).items():
        rows[f"regret, {name}"] = score
    for name, value in rows.items():
        print(f"{name}: {value}")


def _validation(config: dict[str, Any]) -> dict[str, str]:
    """Return the mean validation regrets, whoever wrote the config."""
    try:
        overall = config["validation"]["overall"].items()
        return {
            str(name): f"{mean:.3f} [{low:.3f}, {high:.3f}]"
            for name, (mean, low, high) in overall
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _download(arguments: argparse.Namespace) -> None:
    print(fetch_checkpoint(arguments.checkpoint))


def _fit(arguments: argparse.Namespace) -> None:
    policy = _unfitted(arguments)
    # What is wrong with these should not wait for a large log.
    write = _writer(arguments.output)
    load_network(arguments.checkpoint, check_device(arguments.device))
    if arguments.save is None:
        _fit_in_parts(policy, arguments)
    else:
        policy.fit(_whole(arguments)).save(arguments.save)
    if arguments.output is not None:
        with replacing(arguments.output) as file:
            write(policy, file)
    elif arguments.save is None:
        _write_text(policy, sys.stdout)


def _fit_in_parts(
    policy: OfflinePolicyEstimator, arguments: argparse.Namespace
) -> None:
    """Fit to the counts of a log: all that the table of a policy needs."""
    total: tuple[Any, Any, Any] | None = None
    names, allowed, rows = None, None, 0
    for table in _with_progress(_batches(arguments.log, arguments.encoding)):
        try:
            data = policy._read(table, state_names=names)
            # A log with such a column is one table.
            allowed = check_taken(read_allowed(None, table, data), data)
        except (TypeError, ValueError) as error:
            where = f"Counting rows from {rows} of {arguments.log}: " if rows else ""
            raise type(error)(f"{where}{error}") from error
        new = data.states, data.actions, count(data)
        total = merge(total, new) if total else new
        names = data.state_names
        rows += len(table)
    if total is None:
        raise _no_rows(arguments)
    states, _, statistics = total
    warn_of_dead_ends(statistics, states)
    policy._plan(*total, names, allowed=allowed)


def _report(arguments: argparse.Namespace) -> None:
    _unfitted(arguments).fit(_whole(arguments)).report(arguments.output)


def _whole(arguments: argparse.Namespace) -> Any:
    """Return the log as one table.

    Where episodes start and what they returned is not in the counts.
    """
    tables = list(_with_progress(_batches(arguments.log, arguments.encoding)))
    if not tables:
        raise _no_rows(arguments)
    import pyarrow as pa

    return pa.concat_tables(tables)


def _no_rows(arguments: argparse.Namespace) -> ValueError:
    return ValueError(f"LOG must have at least one row. Found none in {arguments.log}.")


def _unfitted(arguments: argparse.Namespace) -> OfflinePolicyEstimator:
    """Return the estimator that the arguments describe."""
    return OfflinePolicyEstimator(
        gamma=arguments.gamma,
        checkpoint=arguments.checkpoint,
        device=arguments.device,
        reward_range=arguments.reward_range,
        random_state=0,
    )


def _batches(path: Path, encoding: str) -> Iterator[Any]:
    try:
        import pyarrow  # noqa: F401
        import tqdm  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Reading a log needs pyarrow and tqdm ({error}). Install them: "
            "pip install 'tabrl[cli]'."
        ) from error
    return read_batches(path, encoding)


def _with_progress(tables: Iterator[Any]) -> Iterator[Any]:
    from tqdm import tqdm

    # disable=None: no bar where standard error is not a terminal.
    with tqdm(unit="row", unit_scale=True, disable=None, leave=False) as bar:
        for table in tables:
            yield table
            bar.update(len(table))


def _writer(path: Path | None) -> Callable[[OfflinePolicyEstimator, BinaryIO], None]:
    """Return what writes in the format that a name ends in."""
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    if path is None or (path.exists() and not path.is_file()):
        return _write_csv  # a pipe or a device
    if path.suffix.lower() not in writers and path.parts[:2] != ("/", "dev"):
        raise ValueError(f"--output must end in {' or '.join(writers)}. Got {path}.")
    return writers.get(path.suffix.lower(), _write_csv)


def _write_csv(policy: OfflinePolicyEstimator, file: BinaryIO) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        _write_text(policy, text)
        text.flush()
    finally:
        text.detach()


def _write_text(policy: OfflinePolicyEstimator, file: TextIO) -> None:
    """Write one row a state and action."""
    table = _policy_table(policy)
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(table)
    # A carriage return ends a line as well, but not every writer quotes it.
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    for row in zip(*table.values(), strict=True):
        returns = any(isinstance(label, str) and "\r" in label for label in row[:2])
        (quoted if returns else rows).writerow(row)


def _write_parquet(policy: OfflinePolicyEstimator, file: BinaryIO) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = _policy_table(policy)
    if policy.state_names_:
        names = policy.state_names_
        table["state"] = [dict(zip(names, row, strict=True)) for row in table["state"]]
    try:
        columns = {name: pa.array(column) for name, column in table.items()}
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(
            f"Labels of one column must be of one type in parquet: {error}. Write .csv."
        ) from error
    parquet.write_table(pa.table(columns), file)


def _policy_table(policy: OfflinePolicyEstimator) -> dict[str, list]:
    """Return one row a state and action, by column."""
    states, actions = policy.states_, policy.actions_
    visits = np.zeros((len(states), len(actions)))
    statistics = policy.statistics_
    visits[statistics.pair_state, statistics.pair_action] = statistics.n
    tables = [
        policy.predict_proba(states),
        policy.action_values(states),
        policy.action_values(states, quantile=0.1),
        policy.action_values(states, quantile=0.9),
        visits.astype(np.int64),
    ]
    labels = [
        [label for label in python_values(states) for _ in actions],
        python_values(actions) * len(states),
    ]
    columns = [*labels, *(table.ravel().tolist() for table in tables)]
    return dict(zip(_COLUMNS, columns, strict=True))


if __name__ == "__main__":
    sys.exit(main())
