import csv
import os
import subprocess
import sys

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
