"""The command line: ``tabrl`` or ``python -m tabrl``."""

from __future__ import annotations

import argparse
import csv
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from tabrl import OfflinePolicyEstimator, __version__
from tabrl._checkpoint import fetch_checkpoint, load_network, read_config
from tabrl._checks import check_device
from tabrl._columns import _choose, check_complete
from tabrl._offline import _count, _merge

_BATCH_ROWS = 1_000_000
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
    with warnings.catch_warnings():
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
    fit.add_argument("log", type=Path, metavar="LOG", help=".csv or .parquet file")
    fit.add_argument(
        "--gamma", type=float, default=0.99, help="discount factor; default: 0.99"
    )
    fit.add_argument(
        "-o", "--output", type=Path, help="CSV file; default: standard output"
    )
    fit.add_argument(
        "--checkpoint",
        default="auto",
        help="folder or org/name[@revision]; default: the bundled one",
    )
    fit.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, ...; default: auto"
    )
    fit.add_argument(
        "--reward-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        default=None,
        help="smallest and largest possible reward of a step; default: unknown",
    )
    fit.set_defaults(run=_fit)
    return parser


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
    policy = OfflinePolicyEstimator(
        gamma=arguments.gamma,
        checkpoint=arguments.checkpoint,
        device=arguments.device,
        reward_range=arguments.reward_range,
        random_state=0,
    )
    # What is wrong with these should not wait for a large log.
    load_network(arguments.checkpoint, check_device(arguments.device))
    total: tuple[Any, Any, Any] | None = None
    rows = 0
    for table in _batches(arguments.log):
        try:
            data = policy._read(table)
        except (TypeError, ValueError) as error:
            where = f"Counting rows from {rows} of {arguments.log}: " if rows else ""
            raise type(error)(f"{where}{error}") from error
        if total:
            total = _merge(*total, data)
        else:
            total = data.states, data.actions, _count(data)
        rows += len(table)
    if total is None:
        raise ValueError(
            f"LOG must have at least one row. Found none in {arguments.log}."
        )
    policy._plan(*total)
    if arguments.output is None:
        _write_policy(policy, sys.stdout)
        return
    temporary = arguments.output.with_name(f"{arguments.output.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            _write_policy(policy, file)
        os.replace(temporary, arguments.output)
    finally:
        temporary.unlink(missing_ok=True)


def _batches(path: Path) -> Iterator[Any]:
    """Yield the log as pyarrow tables, a batch at a time where rows stand alone."""
    try:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv
        from pyarrow import parquet
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            f"tabrl fit needs pyarrow and tqdm ({error}). Install them: "
            "pip install 'tabrl[cli]'."
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"LOG must be a file. Found none at {path}.")
    # disable=None: no bar where standard error is not a terminal.
    with tqdm(unit="row", unit_scale=True, disable=None, leave=False) as bar:
        if path.suffix.lower() == ".parquet":
            try:
                file = parquet.ParquetFile(path)
            except pa.ArrowInvalid as error:
                raise ValueError(f"{path} must be a parquet file: {error}") from error
            with file:
                names = file.schema_arrow.names
                chosen = _choose(names)
                check_complete(chosen, names)
                bar.total = file.metadata.num_rows
                # Without next_state a transition needs the row that follows it.
                n_rows = _BATCH_ROWS if "next_state" in chosen else max(bar.total, 1)
                for batch in file.iter_batches(n_rows, columns=list(chosen.values())):
                    yield pa.Table.from_batches([batch])
                    bar.update(len(batch))
        elif path.suffix.lower() == ".csv":
            # Unlike streaming, this infers the type of a column from all its rows.
            options = arrow_csv.ConvertOptions(
                strings_can_be_null=True, quoted_strings_can_be_null=False
            )
            try:
                table = arrow_csv.read_csv(path, convert_options=options)
                chosen = _choose(table.column_names)
                pair = [chosen[c] for c in ("state", "next_state") if c in chosen]
                types = {table.schema.field(name).type for name in pair}
                if pa.string() in types and len(types) > 1:  # "3" here, "end" there
                    options.column_types = dict.fromkeys(pair, pa.string())
                    table = arrow_csv.read_csv(path, convert_options=options)
            except pa.ArrowInvalid as error:
                raise ValueError(f"{path} must be a CSV file: {error}") from error
            yield table
        else:
            raise ValueError(f"LOG must end in .csv or .parquet. Got {path}.")


def _write_policy(policy: OfflinePolicyEstimator, file: TextIO) -> None:
    """Write one row a state and action."""
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
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(_COLUMNS)
    # tolist() would turn datetime64[ns] into bare integers.
    names = [
        list(labels) if labels.dtype.kind in "mM" else labels.tolist()
        for labels in (states, actions)
    ]
    for i, state in enumerate(names[0]):
        for j, action in enumerate(names[1]):
            rows.writerow([state, action, *(table[i, j].item() for table in tables)])


if __name__ == "__main__":
    sys.exit(main())
