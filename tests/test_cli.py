import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tabrl import OfflinePolicyEstimator, __main__, __version__, _reading
from tabrl._checkpoint import BUNDLED, read_config


@pytest.fixture
def log():
    """Return a walk on a line whose right end pays and ends."""
    rng = np.random.default_rng(0)
    state = rng.integers(0, 5, 3000)
    action = rng.choice(["left", "right"], 3000)
    next_state = (state + np.where(action == "right", 1, -1)).clip(0, 5)
    return pd.DataFrame(
        {
            "state": state,
            "action": action,
            "reward": np.where(next_state == 5, 1.5, 0),
            "next_state": next_state,
            "terminated": next_state == 5,
        }
    )


def run(*arguments):
    return __main__.main([str(argument) for argument in arguments])


def check_table(path, policy):
    """Check a written policy against an estimator fitted on the same log."""
    table = pd.read_csv(path)
    assert list(table) == [
        *("state", "action", "probability", "value", "low", "high", "visits")
    ]
    size = (len(policy.states_), len(policy.actions_))
    assert table["state"].tolist() == np.repeat(policy.states_, size[1]).tolist()
    assert table["action"].tolist() == policy.actions_.tolist() * size[0]
    for column, expected in (
        ("probability", policy.predict_proba(policy.states_)),
        ("value", policy.action_values(policy.states_)),
        ("low", policy.action_values(policy.states_, quantile=0.1)),
        ("high", policy.action_values(policy.states_, quantile=0.9)),
    ):
        np.testing.assert_allclose(table[column], expected.ravel(), rtol=1e-9)
    assert table["visits"].sum() == policy.n_transitions_


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_fit_equals_the_estimator(kind, log, tmp_path, capsys):
    path, out = tmp_path / f"log.{kind}", tmp_path / "policy.csv"
    log.to_csv(path, index=False) if kind == "csv" else log.to_parquet(path)
    assert run("fit", path, "--gamma", 0.9, "-o", out) == 0
    check_table(out, OfflinePolicyEstimator(0.9).fit(log))
    assert capsys.readouterr() == ("", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"log.{kind}", "policy.csv"]


def test_parquet_is_streamed(log, tmp_path, monkeypatch):
    """Batches see other labels, and other kinds of missing ones, than the whole."""
    log = log.sort_values("state")
    log["next_state"] = log["next_state"].astype("Int64").mask(log["terminated"])
    log["terminal"] = log.pop("terminated")
    log["unused"] = "x" * 50
    log.to_parquet(tmp_path / "log.parquet", row_group_size=700)
    monkeypatch.setattr(_reading, "BATCH_ROWS", 500)
    sizes = []
    real = __main__._batches

    def spy(path, encoding):
        for table in real(path, encoding):
            sizes.append((len(table), table.num_columns))
            yield table

    monkeypatch.setattr(__main__, "_batches", spy)
    assert run("fit", tmp_path / "log.parquet", "-o", tmp_path / "out.csv") == 0
    assert len(sizes) >= 6
    assert max(sizes) <= (500, 5)
    check_table(tmp_path / "out.csv", OfflinePolicyEstimator(0.99).fit(log))


def test_episodes_are_not_cut(tmp_path, monkeypatch):
    log = pd.DataFrame(
        {
            "episode": np.repeat(range(40), 5),
            "state": list(range(5)) * 40,
            "action": "go",
            "reward": [0, 0, 0, 0, 1.0] * 40,
            "terminated": [False] * 4 + [True] + ([False] * 4 + [True]) * 39,
        }
    )
    log.to_parquet(tmp_path / "log.parquet")
    monkeypatch.setattr(_reading, "BATCH_ROWS", 7)
    assert run("fit", tmp_path / "log.parquet", "-o", tmp_path / "out.csv") == 0
    check_table(tmp_path / "out.csv", OfflinePolicyEstimator(0.99).fit(log))


def test_csv_types(tmp_path, capsys):
    """Integers that end in text are text; empty and NA are missing; reals stay."""
    (tmp_path / "log.csv").write_text(
        "s,a,r,next_obs,done,truncated\n"
        + "1,2026-01-01,0,2,0,0\n" * 50
        + "2,2026-01-02,0.5,,1,0\n" * 50
        + "end,2026-01-02,1,NA,1,0\n"
    )
    assert run("fit", tmp_path / "log.csv", "--gamma", 0.5) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(out.splitlines()))
    assert {row["state"] for row in rows} == {"1", "2", "end"}
    assert {row["action"] for row in rows} == {"2026-01-01", "2026-01-02"}
    assert err.startswith("tabrl: warning: Column 'done' is read as")
    assert err.count("\n") == 1


def test_datetimes_are_written_as_such(log, tmp_path, capsys):
    for column in ("state", "next_state"):
        log[column] = pd.to_datetime("2026-01-01") + pd.to_timedelta(log[column], "D")
    log.to_parquet(tmp_path / "log.parquet")
    assert run("fit", tmp_path / "log.parquet") == 0
    assert "\n2026-01-02T00:00:00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "options", "says"),
    [
        ("gone.csv", None, [], "Found none at"),
        ("log.txt", "x", [], "must end in .csv or .parquet"),
        ("log.csv", "", [], "must be a CSV file"),
        ("log.csv", "state,action\n1,2,3\n", [], "must be a CSV file"),
        ("log.csv", "state,action\n1,2\n", [], "Missing: 'reward'"),
        ("log.parquet", "PAR1", [], "must be a parquet file"),
        ("log.csv", "s,a,r,next_obs,terminal\n", [], "at least one row"),
        ("log.csv", "s,a,r,next_obs,terminal\n1,1,x,1,0\n", [], "must be numeric"),
        ("log.csv", "s,a,r,next_obs,terminal\n1,1,1,1,0\n", ["--gamma", 2], "[0, 1)"),
        ("log.csv", "x", ["--device", "abacus"], "device must be"),
        ("log.csv", "x", ["--checkpoint", "gone"], "checkpoint must be"),
        (
            "log.csv",
            "s,a,r,next_obs,terminal\n1,1,7,1,0\n",
            ["--reward-range", 0, 1],
            "must lie in reward_range",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    name, content, options, says, tmp_path, capsys
):
    if content is not None:
        (tmp_path / name).write_text(content)
    out = tmp_path / "policy.csv"
    assert run("fit", tmp_path / name, "-o", out, *options) == 2
    printed, error = capsys.readouterr()
    assert not printed
    assert error.startswith("tabrl: error: ")
    assert says in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_columns_missing_from_parquet(tmp_path, capsys):
    pq.write_table(pa.table({"state": [1], "x": [1]}), tmp_path / "log.parquet")
    assert run("fit", tmp_path / "log.parquet") == 2
    assert "Found: 'state', 'x'." in capsys.readouterr().err


def test_error_in_a_later_batch_says_where(log, tmp_path, monkeypatch, capsys):
    log.loc[2000, "reward"] = np.nan
    log.to_parquet(tmp_path / "log.parquet")
    monkeypatch.setattr(_reading, "BATCH_ROWS", 1500)
    assert run("fit", tmp_path / "log.parquet") == 2
    error = capsys.readouterr().err
    assert "Counting rows from 1500 of" in error
    assert "first at row 500 (nan)" in error


def test_failed_write_leaves_what_was_there(log, tmp_path, monkeypatch, capsys):
    log.to_csv(tmp_path / "log.csv", index=False)
    out = tmp_path / "policy.csv"
    out.write_text("before")

    def fail(policy, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(__main__, "_write_csv", fail)
    assert run("fit", tmp_path / "log.csv", "-o", out) == 2
    assert out.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2
    assert run("fit", tmp_path / "log.csv", "-o", tmp_path / "no" / "out.csv") == 2
    assert "No such file" in capsys.readouterr().err


def test_without_pyarrow(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "log.csv").write_text("x")
    assert run("fit", tmp_path / "log.csv") == 2
    assert "pip install 'tabrl[cli]'" in capsys.readouterr().err


def test_info(capsys):
    assert run("info") == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["tabrl"] == __version__
    assert lines["checkpoint"] == "auto"
    assert lines["sha256"] == read_config()["sha256"]
    assert int(lines["parameters"]) > 0
    assert "steps" in lines["training"]


def test_info_shows_validation_if_it_can_be_read():
    good = {"validation": {"overall": {"greedy": [0.25, 0.2, 0.3]}}}
    assert __main__._validation(good) == {"greedy": "0.250 [0.200, 0.300]"}
    for bad in ({}, {"validation": 1}, {"validation": {"overall": {"greedy": "x"}}}):
        assert __main__._validation(bad) == {}


def test_download(tmp_path, monkeypatch, capsys):
    assert run("download", BUNDLED) == 0
    assert capsys.readouterr().out == f"{BUNDLED}\n"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert run("download", "org/name@v1") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'org/name'" in error
    assert "'v1'" in error


@pytest.mark.parametrize("arguments", [[], ["fit"], ["guess"], ["fit", "x", "--y"]])
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "usage: tabrl" in capsys.readouterr().err


def test_as_a_process(log, tmp_path):
    """Exit codes reach the shell, and a reader that leaves early is no error."""
    # More output than a pipe holds.
    log["state"] = log["next_state"] = [f"{i} {'x' * 50}" for i in range(len(log))]
    log.to_csv(tmp_path / "log.csv", index=False)
    command = f"{sys.executable} -W error -m tabrl fit {tmp_path / 'log.csv'}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -1; {command} --gamma 3"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
    )
    assert done.stdout == "state,action,probability,value,low,high,visits\n"
    assert done.stderr == "tabrl: error: gamma must lie in [0, 1). Got 3.0.\n"
    assert done.returncode == 2


# Formats


def text_log(**changes):
    """Return a small log as text, five columns of which may be replaced."""
    columns = {
        "state": ["a", "b", "a", "b"] * 5,
        "action": ["x", "y", "y", "x"] * 5,
        "reward": ["0", "1.5", "0", "-1"] * 5,
        "next_state": ["b", "a", "b", ""] * 5,
        "terminated": ["False", "False", "False", "True"] * 5,
        **changes,
    }
    names = list(columns)
    return [names, *map(list, zip(*columns.values(), strict=True))]


def as_text(rows, delimiter=","):
    return "".join(delimiter.join(row) + "\n" for row in rows)


def fit_text(path, content, *options, encoding="utf-8"):
    """Fit a log from text; return the rows of the policy, or None for an error."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    out = path.with_name("policy.csv")
    if run("fit", path, "-o", out, *options) != 0:
        return None
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def compressed(kind, data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, kind) as file:
        file.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("log.tsv", lambda rows: as_text(rows, "\t").encode()),
        ("log.csv", lambda rows: as_text(rows, ";").encode()),
        ("log.csv", lambda rows: b"\xef\xbb\xbf" + as_text(rows).encode()),
        ("log.csv", lambda rows: as_text(rows).replace("\n", "\r\n").encode()),
        ("log.csv.gz", lambda rows: compressed("gzip", as_text(rows).encode())),
        ("log.csv.zst", lambda rows: compressed("zstd", as_text(rows).encode())),
        ("LOG.CSV", lambda rows: as_text(rows).encode()),
    ],
)
def test_text_formats(name, make, tmp_path):
    expected = fit_text(tmp_path / "plain.csv", as_text(text_log()))
    assert fit_text(tmp_path / name, make(text_log())) == expected
    assert {row["state"] for row in expected} == {"a", "b"}


@pytest.mark.parametrize("kind", ["feather", "jsonl", "parquet folder"])
def test_other_formats(kind, log, tmp_path):
    if kind == "feather":
        path = tmp_path / "log.feather"
        log.to_feather(path)
    elif kind == "jsonl":
        path = tmp_path / "log.jsonl"
        log.to_json(path, orient="records", lines=True)
    else:
        path = tmp_path / "logs"
        path.mkdir()
        for i, part in enumerate(np.array_split(np.arange(len(log)), 3)):
            log.iloc[part].to_parquet(path / f"{i}.parquet")
    assert run("fit", path, "-o", tmp_path / "policy.csv") == 0
    check_table(tmp_path / "policy.csv", OfflinePolicyEstimator(0.99).fit(log))


@pytest.mark.parametrize("kind", ["csv", "gzip", "parquet", "jsonl"])
def test_standard_input(kind, log, tmp_path, monkeypatch):
    buffer = io.BytesIO()
    if kind == "parquet":
        log.to_parquet(buffer)
    elif kind == "jsonl":
        log.to_json(buffer, orient="records", lines=True)
    else:
        data = log.to_csv(index=False).encode()
        buffer = io.BytesIO(compressed("gzip", data) if kind == "gzip" else data)
    stdin = io.TextIOWrapper(io.BytesIO(buffer.getvalue()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run("fit", "-", "-o", tmp_path / "policy.csv") == 0
    check_table(tmp_path / "policy.csv", OfflinePolicyEstimator(0.99).fit(log))


def test_other_encodings(tmp_path, capsys):
    rows = text_log(state=["caf\u00e9", "b"] * 10, next_state=["b", "caf\u00e9"] * 10)
    data = as_text(rows).encode("latin-1")
    assert fit_text(tmp_path / "log.csv", data) is None
    error = capsys.readouterr().err
    assert "must be text in utf-8" in error
    assert "--encoding" in error
    assert error.count("\n") == 1
    found = fit_text(tmp_path / "log.csv", data, "--encoding", "latin-1")
    assert {row["state"] for row in found} == {"caf\u00e9", "b"}
    assert fit_text(tmp_path / "log.csv", data, "--encoding", "klingon") is None
    assert "klingon" in capsys.readouterr().err


# Labels come back as they stand in the log


@pytest.mark.parametrize(
    "labels",
    [
        ["007", "7"],
        ["2026-01-01", "2026-01-02"],
        ["2026-01-01 05:00:00", "2026-01-02 06:00:00"],
        ["05:00", "06:00"],
        ["true", "false"],
        ["+1", "-0"],
        ["1e3", "2_0"],
        [str(2**63), str(2**64 - 1)],
        [str(2**64), str(2**64 + 1)],
        [str(-(2**63)), "5"],
        [str(2**53), str(2**53 + 1)],
        [f"{2**53 + 1}", "0.5"],
        ["1.0", "2.5"],
        ["3", "end"],
    ],
)
def test_labels_survive_a_round_trip(labels, tmp_path):
    other = labels[::-1]
    rows = text_log(state=labels * 10, action=labels * 10, next_state=other * 10)
    found = fit_text(tmp_path / "log.csv", as_text(rows))
    assert {row["state"] for row in found} == set(labels)
    assert {row["action"] for row in found} == set(labels)
    assert len(found) == 4


def test_large_ids_beside_nulls(tmp_path):
    ids = [str(2**63 + i) for i in range(5)]
    rows = text_log(state=ids * 4, next_state=[*ids[1:], ""] * 4)
    rows = [[*row[:4], str(not row[3])] if row[0] != "state" else row for row in rows]
    found = fit_text(tmp_path / "log.csv", as_text(rows))
    assert {row["state"] for row in found} == set(ids)


@pytest.mark.parametrize(
    "null", ["", "None", "NA", "null", "nan", "NaN", "<NA>", "NaT"]
)
def test_nulls_of_other_libraries(null, tmp_path):
    expected = fit_text(tmp_path / "log.csv", as_text(text_log()))
    rows = text_log(next_state=["b", "a", "b", null] * 5)
    assert fit_text(tmp_path / "log.csv", as_text(rows)) == expected


def test_integers_that_became_floats_beside_nulls(tmp_path):
    rows = text_log(state=list("1212") * 5, next_state=["2.0", "1.0", "2.0", ""] * 5)
    found = fit_text(tmp_path / "log.csv", as_text(rows))
    assert [row["state"] for row in found] == ["1", "1", "2", "2"]


def test_labels_with_ends_of_lines_survive_in_large_files(tmp_path, monkeypatch):
    """Several megabytes: a label lies across the parts that are read."""
    monkeypatch.setattr(_reading, "_BLOCK_BYTES", 2**20)
    labels = ["one\rtwo", "one\ntwo", "one\r\ntwo", 'with "quotes", and commas', "\r"]
    rng = np.random.default_rng(0)
    n = 60_000
    codes, after = rng.integers(len(labels), size=(2, n))
    path = tmp_path / "log.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["state", "action", "reward", "next_state", "terminated"])
        for i, j in zip(codes, after, strict=True):
            writer.writerow([labels[i], labels[j], "0.25", labels[j], "False"])
    assert path.stat().st_size > 3 * 2**20
    assert run("fit", path, "-o", tmp_path / "policy.csv") == 0
    with (tmp_path / "policy.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert {row["state"] for row in found} == set(labels)
    assert {row["action"] for row in found} == set(labels)
    assert sum(int(row["visits"]) for row in found) == n


def test_csv_is_read_in_parts(log, tmp_path, monkeypatch):
    """The kind of a label may show only in the last part."""
    log["next_state"] = log["next_state"].astype(object)
    log.loc[log["terminated"], "next_state"] = "end"
    log = log.sort_values("terminated")
    log.to_csv(tmp_path / "log.csv", index=False)
    monkeypatch.setattr(_reading, "_BLOCK_BYTES", 2**13)
    monkeypatch.setattr(_reading, "_PART_BYTES", 2**13)
    sizes = []
    real = __main__._batches

    def spy(path, encoding):
        for table in real(path, encoding):
            sizes.append(len(table))
            yield table

    monkeypatch.setattr(__main__, "_batches", spy)
    assert run("fit", tmp_path / "log.csv", "-o", tmp_path / "out.csv") == 0
    assert len(sizes) > 5
    assert sum(sizes) == len(log)
    text = log.assign(state=log["state"].astype(str))
    text["next_state"] = text["next_state"].astype(str)
    table = pd.read_csv(tmp_path / "out.csv", dtype={"state": str})
    policy = OfflinePolicyEstimator(0.99).fit(text)
    assert table["state"].tolist() == np.repeat(policy.states_, 2).tolist()
    np.testing.assert_allclose(
        table["value"], policy.action_values(policy.states_).ravel(), rtol=1e-9
    )


# Output


def test_output_in_parquet(log, tmp_path):
    log.to_csv(tmp_path / "log.csv", index=False)
    assert run("fit", tmp_path / "log.csv", "-o", tmp_path / "policy.csv") == 0
    assert run("fit", tmp_path / "log.csv", "-o", tmp_path / "policy.parquet") == 0
    found = pd.read_parquet(tmp_path / "policy.parquet")
    expected = pd.read_csv(tmp_path / "policy.csv")
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-12)
    assert found["state"].dtype == np.int64


def test_parquet_of_labels_of_two_types(tmp_path, capsys):
    (tmp_path / "log.jsonl").write_text(
        '{"s": "a", "a": 1, "r": 0, "sp": "b", "terminal": true}\n'
    )
    out = tmp_path / "policy.parquet"
    assert run("fit", tmp_path / "log.jsonl", "-o", out) == 0
    assert pd.read_parquet(out)["state"].tolist() == ["a", "b"]


@pytest.mark.parametrize("name", ["policy", "policy.xlsx", "policy.csv.gz"])
def test_unknown_output_is_refused_before_the_log_is_read(name, tmp_path, capsys):
    assert run("fit", tmp_path / "gone.csv", "-o", tmp_path / name) == 2
    assert "--output must end in .csv or .parquet" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="needs /dev/stdout")
def test_output_to_a_device_is_written_through(log, tmp_path):
    log.to_csv(tmp_path / "log.csv", index=False)
    code = "import sys; from tabrl.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "fit", str(tmp_path / "log.csv")]
    with (tmp_path / "out").open("w") as out:
        out.write("before\n")
        out.flush()
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
        subprocess.run([*command, "-o", "/dev/stderr"], stderr=out, env=env, check=True)
    assert (tmp_path / "out").read_text().startswith("before\nstate,action,")
    assert os.path.exists("/dev/stderr")


@pytest.mark.parametrize("how", ["cut", "flip", "zeros"])
@pytest.mark.parametrize("name", ["log.parquet", "log.feather", "log.csv.gz"])
def test_damaged_files_are_one_line(how, name, log, tmp_path, capsys):
    path = tmp_path / name
    {"log.parquet": log.to_parquet, "log.feather": log.to_feather}.get(
        name, lambda p: p.write_bytes(compressed("gzip", log.to_csv().encode()))
    )(path)
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "flip":
        data[len(data) // 4 : len(data) // 4 + 99] = os.urandom(0) or b"\xff" * 99
    else:
        data = bytearray(len(data))
    path.write_bytes(data)
    assert run("fit", path, "-o", tmp_path / "policy.csv") == 2
    error = capsys.readouterr().err
    assert error.startswith("tabrl: error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "policy.csv").exists()


def test_a_log_that_was_misread_is_a_warning(tmp_path, capsys):
    rows = text_log(next_state=["b ", "a ", "b ", ""] * 5)
    assert fit_text(tmp_path / "log.csv", as_text(rows)) is not None
    error = capsys.readouterr().err
    assert error.startswith("tabrl: warning: 15 of 15 transitions")
    assert "'b '" in error


@pytest.mark.parametrize("named", [False, True])
def test_runs_that_write_one_path_at_once(named, log, tmp_path, monkeypatch):
    """None goes on before all have written a half; one of their files stays, whole."""
    if named:  # as where the system has no files without names
        monkeypatch.setattr("tabrl._files._nameless", lambda _: None)
    log.to_csv(tmp_path / "log.csv", index=False)
    gammas = (0.5, 0.9, 0.99)
    alone = {}
    for gamma in gammas:
        run("fit", tmp_path / "log.csv", "--gamma", gamma, "-o", tmp_path / "alone.csv")
        alone[gamma] = (tmp_path / "alone.csv").read_bytes()
    (tmp_path / "alone.csv").unlink()
    together = threading.Barrier(len(gammas))
    write = __main__._write_csv

    def in_halves(policy, file):
        data = io.BytesIO()
        write(policy, data)
        half = len(data.getvalue()) // 2
        file.write(data.getvalue()[:half])
        file.flush()
        together.wait(timeout=60)
        file.write(data.getvalue()[half:])

    monkeypatch.setattr(__main__, "_write_csv", in_halves)
    out = tmp_path / "policy.csv"
    with ThreadPoolExecutor(len(gammas)) as pool:
        jobs = [
            pool.submit(run, "fit", tmp_path / "log.csv", "--gamma", gamma, "-o", out)
            for gamma in gammas
        ]
        assert [job.result() for job in jobs] == [0, 0, 0]
    assert out.read_bytes() in alone.values()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.csv", "policy.csv"]


def test_sigterm_leaves_what_was_there(log, tmp_path, monkeypatch):
    """Also where the system has no files without names."""
    monkeypatch.setattr("tabrl._files._nameless", lambda _: None)
    log.to_csv(tmp_path / "log.csv", index=False)
    out = tmp_path / "policy.csv"
    out.write_text("before")

    def killed(policy, file):
        file.write(b"half")
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")

    monkeypatch.setattr(__main__, "_write_csv", killed)
    with pytest.raises(SystemExit) as caught:
        run("fit", tmp_path / "log.csv", "-o", out)
    assert caught.value.code == 128 + signal.SIGTERM
    assert out.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.fixture
def bounded():
    """Return walks of ten steps at most, with what each end of the line allows."""
    rng, rows, n_steps = np.random.default_rng(1), [], 10
    for episode in range(300):
        state = 2
        for step in range(n_steps):
            choices = ["right"] if state == 0 else ["left", "right"]
            action = rng.choice(choices)
            following = state + (1 if action == "right" else -1)
            ends = following == 5
            last = step == n_steps - 1 and not ends
            row = (episode, step, state, action, 1.5 * ends, following, ends, last)
            rows.append((*row, choices))
            state = following
            if ends:
                break
    names = "episode step state action reward next_state terminated truncated"
    return pd.DataFrame(rows, columns=[*names.split(), "allowed_actions"])


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("successors", [True, False])
def test_a_saved_policy_is_that_of_the_estimator(
    kind, successors, bounded, tmp_path, monkeypatch
):
    """Also where episodes go on from one part to the next."""
    if not successors:
        bounded = bounded.drop(columns="next_state")
    path, saved = tmp_path / f"log.{kind}", tmp_path / "policy"
    if kind == "csv":
        bounded.to_csv(path, index=False)
    elif kind == "jsonl":
        bounded.to_json(path, orient="records", lines=True)
    else:
        bounded.to_parquet(path)
    monkeypatch.setattr(_reading, "BATCH_ROWS", 97)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of ends without a next state
        assert run("fit", path, "--save", saved, "-o", tmp_path / "policy.csv") == 0
        policy = OfflinePolicyEstimator(random_state=0).fit(bounded)
    found = OfflinePolicyEstimator.load(saved)
    assert found.n_episodes_ == policy.n_episodes_ > 0
    np.testing.assert_array_equal(found.allowed_actions_, policy.allowed_actions_)
    assert not found.allowed_actions_.all()
    assert found.policy_value() == policy.policy_value()
    assert found.behaviour_value() == policy.behaviour_value()
    log = bounded.drop(columns="allowed_actions")
    log = log[log["episode"] < 50]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert found.score(log) == policy.score(log)
    check_table(tmp_path / "policy.csv", policy)


def test_saving_alone_writes_no_table(bounded, tmp_path, capsys):
    bounded.to_parquet(tmp_path / "log.parquet")
    assert run("fit", tmp_path / "log.parquet", "--save", tmp_path / "policy") == 0
    assert capsys.readouterr() == ("", "")
    assert OfflinePolicyEstimator.load(tmp_path / "policy").n_episodes_ == 300


@pytest.mark.parametrize(
    "write",
    [
        "|".join,
        str,
        json.dumps,
        lambda actions: str(set(actions)),
        lambda actions: " | ".join(actions),
    ],
)
def test_allowed_actions_in_a_cell_of_text(write, bounded, tmp_path, monkeypatch):
    """The table keeps to them, however a cell says it."""
    expected = OfflinePolicyEstimator(random_state=0).fit(bounded)
    bounded["allowed_actions"] = bounded["allowed_actions"].map(write)
    bounded.to_csv(tmp_path / "log.csv", index=False)
    monkeypatch.setattr(_reading, "_BLOCK_BYTES", 2000)
    assert run("fit", tmp_path / "log.csv", "-o", tmp_path / "out.csv") == 0
    check_table(tmp_path / "out.csv", expected)
    table = pd.read_csv(tmp_path / "out.csv").set_index(["state", "action"])
    assert table.loc[(0, "left"), "probability"] == 0


@pytest.mark.parametrize("cell", ["7|8", "[7, 8]", "(7, 8)"])
def test_allowed_actions_have_the_type_of_actions(cell, tmp_path):
    log = pd.DataFrame({"s": "a", "a": [7, 8] * 20, "r": 1.0, "terminal": True})
    log.assign(allowed_actions=cell).to_csv(tmp_path / "log.csv", index=False)
    assert run("fit", tmp_path / "log.csv", "--save", tmp_path / "policy") == 0
    found = OfflinePolicyEstimator.load(tmp_path / "policy")
    assert found.allowed_actions_.all()
    assert found.actions_.tolist() == [7, 8]


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("[7, ", "must hold actions of the log, as a|b"),
        ("{7: 8}", "must hold actions of the log, as a|b"),
        ("7|x", "must hold actions of the log, as a|b"),
        ("7", "Found 20 rows where it is not, first at row 1: action 8"),
        ("", "must be a list, a set or an array"),
    ],
)
def test_allowed_actions_that_cannot_be_read(cell, says, tmp_path, capsys):
    log = pd.DataFrame({"s": "a", "a": [7, 8] * 20, "r": 1.0, "terminal": True})
    log.assign(allowed_actions=cell).to_csv(tmp_path / "log.csv", index=False)
    assert run("fit", tmp_path / "log.csv") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err


def test_allowed_actions_that_look_like_dates(tmp_path):
    log = pd.DataFrame({"s": "a", "a": ["2026-01-01", "2026-01-02"] * 20, "r": 1.0})
    log = log.assign(terminal=True, allowed_actions=[["2026-01-01", "2026-01-02"]] * 40)
    log.to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    assert run("fit", tmp_path / "log.jsonl", "--save", tmp_path / "policy") == 0
    found = OfflinePolicyEstimator.load(tmp_path / "policy")
    assert found.allowed_actions_.all()


def test_allowed_actions_must_agree_in_all_parts(
    bounded, tmp_path, monkeypatch, capsys
):
    half = len(bounded) // 2
    for row in np.flatnonzero(bounded["state"] == 0):
        if row >= half:
            bounded.at[row, "allowed_actions"] = ["left", "right"]
    bounded.to_parquet(tmp_path / "log.parquet")
    monkeypatch.setattr(_reading, "BATCH_ROWS", half)
    assert run("fit", tmp_path / "log.parquet", "-o", tmp_path / "out.csv") == 2
    assert "must be the same in all rows of a state" in capsys.readouterr().err
