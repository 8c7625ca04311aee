"""The check of policy values on known processes."""

from __future__ import annotations

import warnings

from pretraining.validation.policy_value import main, score_log, summarise
from tabrl import DeadEndWarning


def test_a_log_of_a_process_without_chance():
    row = score_log("bandit-10", "uniform", 4096, 1)
    assert row["improvement"] > 0.95
    assert row["better"]


def test_summary_counts_wrong_claims():
    row = {"policy": True, "behaviour_value": True, "improvement": 1.0}
    rows = [{**row, "better": better} for better in (True, True, True, False)]
    assert summarise(rows)["wrong"] == 0.25


def test_table(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeadEndWarning)
        main(["--environments", "bandit-10", "--sizes", "256", "--seeds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 4 + 1 + 1
    assert lines[-1].startswith("all ")
