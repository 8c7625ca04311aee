"""Statistics, tables and pictures of benchmark results, and README's copy of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import lzma

import numpy as np
import pytest

from pretraining.benchmark.__main__ import main
from pretraining.benchmark.cells import ResultsError, read_results, run_cells
from pretraining.benchmark.parts.bandit import bayes_optimal_regret
from pretraining.benchmark.report import summary as report
from pretraining.benchmark.report.intervals import (
    bootstrap,
    estimate,
    interquartile_mean,
    interval,
    probability_of_improvement,
    tail_mean,
)
from pretraining.benchmark.report.scores import Scores
from pretraining.benchmark.report.tables import (
    PARTS,
    bandit_tables,
    comparison_table,
    episodes,
    offline_tables,
    online_tables,
    speed_tables,
)

needs_rliable = pytest.mark.skipif(
    importlib.util.find_spec("rliable") is None, reason="rliable is not installed"
)
CHECKPOINT = json.loads(report.CHECKPOINT.read_text())["sha256"]


# Statistics


def test_interval_of_known_spread():
    values = np.random.default_rng(0).normal(size=(1, 400))
    low, high = interval(bootstrap(values))
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half_width, abs=0.15 * half_width)
    assert high == pytest.approx(values.mean() + half_width, abs=0.15 * half_width)


def test_bootstrap_is_stratified():
    # Four cells of the same spread about very different means: half the width of one.
    noise = np.random.default_rng(1).normal(size=400)
    values = noise + np.array([[0.0], [100.0], [200.0], [300.0]])
    low, high = interval(bootstrap(values))
    half_width = 1.96 * noise.std() / np.sqrt(400) / 2
    assert high - low == pytest.approx(2 * half_width, rel=0.1)


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(200):
        values = rng.exponential(size=(4, 20))
        _, low, high = estimate(values)
        covered.append(low <= 1 <= high)
    # Percentile intervals of 20 values are a little short of 0.95.
    assert 0.88 <= np.mean(covered) <= 0.98


def test_tail_mean_is_of_each_cells_worst_tenth():
    values = np.stack([np.arange(30.0), 100 + np.arange(30.0)])
    np.testing.assert_allclose(tail_mean(values[:, ::-1]), [1, 101])
    np.testing.assert_allclose(tail_mean(values[:, :11]), [0.5, 100.5])


def test_interval_of_a_tail_mean_holds_its_estimate():
    values = np.random.default_rng(3).normal(size=(50, 20))
    low, high = interval(bootstrap(values, tail_mean, centred=True))
    assert low < tail_mean(values).mean() < high
    # Without centring it does not.
    assert interval(bootstrap(values, tail_mean))[0] > tail_mean(values).mean()


@needs_rliable
def test_probability_of_improvement_is_rliables():
    from rliable.metrics import probability_of_improvement as theirs

    rng = np.random.default_rng(4)
    x, y = rng.integers(5, size=(2, 7, 6)).astype(float)
    found, low, high = probability_of_improvement(x, y)
    assert found == pytest.approx(theirs(x.T, y.T))
    assert low < found < high
    assert probability_of_improvement(x, x - 10)[0] == 1
    assert probability_of_improvement(x, x + 10)[0] == 0


@needs_rliable
def test_interquartile_mean_ignores_outliers_and_repeats():
    values = np.arange(80.0).reshape(4, 20)
    values[0, 0] = -1e6
    first = interquartile_mean(values)
    assert first[0] == pytest.approx(np.arange(20, 60).mean())
    assert interquartile_mean(values) == first


# Scores

METHODS = {
    ("tabrl, greedy", None): 0.8,
    ("tabrl, sampled", None): 0.7,
    ("certainty equivalence", None): 0.5,
    # One constant is best on lake, the other on cliff.
    ("VI-LCB", 0.1): 0.6,
    ("VI-LCB", 1.0): 0.6,
}


def offline_rows(n_seeds=4, shift=0.0):
    rng = np.random.default_rng(5)
    rows = []
    for (method, constant), name, behaviour, size, seed in itertools.product(
        METHODS, ("lake", "cliff"), ("uniform", "softmax"), (64, 256), range(n_seeds)
    ):
        value = METHODS[method, constant] + 0.01 * rng.normal() + shift
        if constant is not None:
            value += 0.2 * ((constant == 1) == (name == "cliff"))
        row = {"method": method, "constant": constant, "environment": name}
        row |= {"gamma": 0.99, "behaviour": behaviour, "size": size, "seed": seed}
        rows.append({"part": "offline", **row, "value": value})
    return rows


def arranged(rows):
    return Scores(rows, ("gamma", "environment", "behaviour", "size"), "value")


HINDSIGHT = "VI-LCB, c best per environment in hindsight"


def test_hindsight_takes_the_best_constant_of_each_environment():
    scores = arranged(offline_rows())
    assert scores.chosen == {HINDSIGHT: {"lake": 0.1, "cliff": 1.0}}
    assert scores.values(HINDSIGHT).mean() == pytest.approx(0.8, abs=0.01)
    assert scores.values("VI-LCB, c = 1").mean() == pytest.approx(0.7, abs=0.01)
    assert scores.methods[:3] == ["tabrl, greedy", "tabrl, sampled", HINDSIGHT]
    assert scores.tuned == ["VI-LCB, c = 0.1", "VI-LCB, c = 1"]


def test_hindsight_takes_the_lowest_regret():
    rows = [{**row, "regret": row["value"]} for row in offline_rows()]
    keys = ("environment", "behaviour", "size")
    scores = Scores(rows, keys, "regret", lower_is_better=True)
    assert scores.chosen == {HINDSIGHT: {"lake": 1.0, "cliff": 0.1}}


def test_unfinished_results_are_refused():
    rows = offline_rows()
    with pytest.raises(ValueError, match=r"has 3 of 4 for .*cliff.*run the benchmark"):
        arranged(rows[:-1])
    with pytest.raises(ValueError, match="Found two of 'tabrl, greedy'"):
        arranged([*rows, rows[0]])
    with pytest.raises(ValueError, match="Got none"):
        arranged([])


def test_a_peer_that_ran_on_some_cells_is_compared_there_alone():
    rows = offline_rows()
    some = [
        {**row, "method": "DiscreteBCQ", "value": row["value"] - 0.5}
        for row in rows
        if row["method"] == "tabrl, greedy"
        and (row["environment"], row["size"]) == ("lake", 64)
        and row["seed"] < 3
    ]
    scores = arranged(rows + some)
    assert scores.partial == ["DiscreteBCQ"]
    table = comparison_table(scores, "", aggregates=False)
    (row,) = (r for r in table["rows"] if r[:2] == ["tabrl, greedy", "DiscreteBCQ"])
    assert row[2] == 2
    assert row[5] == pytest.approx([0.5, 0.5, 0.5])
    assert row[-1] == "1, 0, 0"


def test_comparison_says_what_was_lost():
    rows = offline_rows()
    for row in rows:
        row["value"] += 0.5 * (
            row["method"] == "certainty equivalence" and row["environment"] == "cliff"
        )
    table = comparison_table(arranged(rows), "", aggregates=False)
    found = {tuple(row[:2]): row[-1] for row in table["rows"]}
    assert found["tabrl, greedy", "certainty equivalence"] == "1, 0, 1"
    assert found["tabrl, sampled", HINDSIGHT] == "0, 0, 2"


def test_comparison_of_regrets_is_won_by_the_lower():
    rows = [{**row, "regret": -100 * row["value"]} for row in offline_rows()]
    keys = ("environment", "behaviour", "size")
    scores = Scores(rows, keys, "regret", lower_is_better=True)
    table = comparison_table(scores, "", aggregates=False, digits=1)
    row = next(r for r in table["rows"] if r[1] == "certainty equivalence")
    assert row[5][0] == pytest.approx(-30, abs=2)
    assert row[-1] == "2, 0, 0"


# Tables


def test_offline_tables_show_means_and_constants():
    tables = offline_tables(offline_rows())
    scores = arranged(offline_rows())
    line = tables["offline"]["rows"][0]
    values = scores.values("tabrl, greedy")
    assert line[0] == "tabrl, greedy"
    assert line[1][0] == pytest.approx(values.mean(), abs=1e-5)
    assert line[1][1] < line[1][0] < line[1][2]
    assert line[2][0] == pytest.approx(values.min(axis=1).mean(), abs=1e-5)
    text = report.markdown(tables["offline-environments"])
    assert "(c = 0.1) |" in text.splitlines()[4]
    assert "(c = 1) |" in text.splitlines()[5]
    assert "4 logs in each of 8 cells" in tables["offline"]["caption"]


def test_markdown_of_each_kind_of_entry():
    table = {
        "caption": "About.",
        "columns": ["a", "b", "c", "d", "e"],
        "rows": [["x", 1234, -0.0001, [0.5, 0.25, 1.0, "c = 1"], None]],
        "digits": 2,
    }
    assert report.markdown(table).splitlines() == [
        "About.",
        "",
        "| a | b | c | d | e |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| x | 1,234 | 0.00 | 0.50 [0.25, 1.00] (c = 1) | - |",
    ]


def online_row(part, name, method, seed, regret, solved, constant=None):
    row = {"part": part, "environment": name, "method": method, "constant": constant}
    row |= {"gamma": 0.99, "seed": seed, "regret": regret, "solved": solved}
    row |= {"episodes": 300, "gives_up": solved is None}
    return {**row, "curve": [[1, regret / 2], [300, regret]]}


def online_rows():
    rows = []
    for seed, name in itertools.product(range(4), ("RiverSwim-6", "DeepSea-6")):
        solved = 20 + seed if name == "RiverSwim-6" or seed else None
        rows.append(online_row("regret", name, "tabrl", seed, 30.0 + seed, solved))
        for constant in (0.1, 1.0):
            regret = 40.0 + seed - 5 * (constant == 1)
            rows.append(
                online_row("regret", name, "UCB-VI", seed, regret, 30, constant)
            )
        rows.append(online_row("convergence", name, "tabrl", seed, 1.0, solved))
        if name == "DeepSea-6":
            rows.append(online_row("deep sea", name, "tabrl", seed, 1.0, solved))
    for seed in range(2):
        rows.append(online_row("regret", "Taxi-v4", "tabrl", seed, 200.0, None))
    return rows


def test_online_tables():
    tables = online_tables(online_rows())
    lines = {line[0]: line for line in tables["online"]["rows"]}
    assert lines["tabrl"][1][0] == 31.5
    assert lines["tabrl"][2][0] == pytest.approx(7 / 8)
    assert lines["tabrl"][3][0] == pytest.approx(1 / 8)
    best = "UCB-VI, c best per environment in hindsight"
    assert lines[best][1][0] == 36.5
    assert list(lines) == ["tabrl", best, "UCB-VI, c = 0.1", "UCB-VI, c = 1"]
    environments = tables["online-environments"]["rows"]
    assert [row[0] for row in environments][-1] == "Taxi-v4 (2 runs)"
    assert environments[-1][1][0] == 200
    assert environments[-1][2] is None
    (row,) = tables["online-comparison"]["rows"]
    assert row[-1] == "2, 0, 0"
    assert tables["online-deep-sea"]["rows"][0][1].startswith("23 [")


def test_median_episodes_counts_what_was_never_solved():
    def runs(*solved):
        return [{"solved": number, "episodes": 300} for number in solved]

    assert episodes(runs(5, 5, 5)) == "5 [5, 5]"
    assert episodes(runs(5, None, None)).startswith("over 300 [5, ")
    assert episodes(runs(None, None)) == "over 300"
    assert episodes([]) is None


def test_bandit_tables_hold_the_optimum_and_compare_on_the_same_bandits():
    rows = [
        {"arms": 2, "horizon": 10, "method": method, "seed": 0, "run": run}
        | {"regret": run + (1.0 if method == "UCB1" else 0.5)}
        for method, n in (("tabrl", 3), ("UCB1", 5))
        for run in range(n)
    ]
    tables = bandit_tables(rows)
    (line,) = tables["bandit-comparison"]["rows"]
    assert line[1][:3] == [-0.5, -0.5, -0.5]
    assert line[1][3] == "3 bandits"
    optimum = tables["bandit"]["rows"][-1]
    assert optimum[1] == pytest.approx(bayes_optimal_regret(2, 10), abs=1e-4)


def test_speed_table_gives_ratios_and_says_what_was_left_out():
    def row(method, seed, seconds, n_bytes, reason=None):
        return {
            **{"n_states": 10, "n_rows": 1000, "method": method},
            **{"seed": seed, "seconds": seconds, "bytes": n_bytes, "reason": reason},
            "steps": 50 if method == "slow" else None,
        }

    rows = [
        *(row("tabrl", seed, 2.0, 2**20) for seed in range(3)),
        *(row("slow", seed, 2.0 * 2**seed, 2**21) for seed in range(3)),
        *(row("large", seed, None, None, "one array of 3 GiB") for seed in range(3)),
    ]
    ours, slow, large = speed_tables(rows)["speed"]["rows"]
    assert ours[3:] == [[2, 2, 2], None, [1, 1, 1], None]
    assert slow[2] == "slow, 50 steps"
    assert slow[3:] == [[4, 2, 8], [0.5, 0.25, 1.0], [2, 2, 2], [0.5, 0.5, 0.5]]
    assert large[3:] == ["left out: one array of 3 GiB", None, None, None]


# Summary and README


def result_folder(folder, checkpoint=CHECKPOINT, online_checkpoint=None):
    """Write result files as the parts of the benchmark do."""
    parts = {"offline": offline_rows(), "online": online_rows()}
    for part, rows in parts.items():
        sha = (
            online_checkpoint if part == "online" and online_checkpoint else checkpoint
        )
        header = {"checkpoint": sha, "commit": "0" * 40, "dirty": False}
        header |= {"machine": {"processor": "test", "cores": 1}}
        header |= {"versions": {"python": "3.11", "d3rlpy": None}}
        cells = [{"cell": part}]
        run_cells(
            cells,
            lambda cell, rows=rows: rows,
            folder / f"{part}.jsonl",
            header,
            progress_bar=False,
        )
    return folder


README = """Before.

<!-- benchmark: offline -->
<!-- end -->

<!-- benchmark: online -->
old
<!-- end -->
After.
"""


@pytest.fixture(scope="module")
def summary():
    tables = offline_tables(offline_rows()) | online_tables(online_rows())
    return json.loads(json.dumps({"checkpoint": CHECKPOINT, "tables": tables}))


def test_readme_is_filled_and_checked(summary):
    filled = report.fill(README, summary)
    assert report.markdown(summary["tables"]["offline"]) in filled
    assert filled.startswith("Before.\n")
    assert filled.endswith("After.\n")
    assert "old" not in filled
    assert report.fill(filled, summary) == filled
    report.check(filled, summary)


def test_an_edited_number_is_found(summary):
    filled = report.fill(README, summary)
    number = f"{summary['tables']['offline']['rows'][0][1][0]:.3f}"
    better = f"{float(number) + 0.1:.3f}"
    with pytest.raises(
        report.ReportError, match=f"must be .*{number}.*Found .*{better}"
    ):
        report.check(filled.replace(number, better, 1), summary)
    with pytest.raises(report.ReportError, match=r"Line .* must be"):
        report.check(README, summary)


def test_results_of_another_checkpoint_are_rejected(summary):
    filled = report.fill(README, summary)
    other = {**summary, "checkpoint": "f" * 64}
    with pytest.raises(report.ReportError, match="must be of the bundled checkpoint"):
        report.check(filled, other)


def test_the_summary_is_of_the_rows_that_are_kept():
    """The tables that do not need rliable are made again."""
    kept = report.read_summary(report.SUMMARY)
    compared = set()
    for part, tables_of in PARTS.items():
        rows = []
        for name, path in report.result_files(report.SUMMARY.parent, part).items():
            header, found = read_results(path)
            said = kept["provenance"].pop(name)
            assert {**header, "protocol": None} == {**said, "protocol": None}
            rows += found
        for name, table in tables_of(rows, aggregates=False).items():
            shown = kept["tables"][name]
            if shown["columns"] == table["columns"]:
                assert report.markdown(shown) == report.markdown(table)
                compared.add(name)
    assert not kept["provenance"]
    assert compared >= {"offline-environments", "online-environments", "bandit"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- benchmark: offlin -->\n<!-- end -->", "must name one of offline, "),
        ("<!-- benchmark: offline -->\n", "needs its <!-- end -->"),
        (README.replace("<!-- end -->\n\n", ""), "needs its <!-- end -->"),
    ],
)
def test_wrong_markers_are_errors(summary, text, message):
    with pytest.raises(report.ReportError, match=message):
        report.fill(text, summary)


@needs_rliable
def test_report_of_a_folder_end_to_end(tmp_path):
    folder = result_folder(tmp_path / "results")
    readme, summary_path = tmp_path / "README.md", tmp_path / "summary.json"
    readme.write_text(README)
    options = [f"--summary={summary_path}", f"--readme={readme}"]
    main(["report", str(folder), *options, f"--figures={tmp_path / 'figures'}"])
    pictures = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert pictures >= {"offline", "offline-sizes", "offline-profiles", "online"}
    assert pictures >= {"online-regret", "online-deep-sea"}
    assert "interquartile mean" in readme.read_text()
    main(["report", *options, "--check"])
    # The same results give the same summary.
    again = json.loads(json.dumps(report.summarise(folder)))
    assert again == report.read_summary(summary_path)
    readme.write_text(readme.read_text().replace("tabrl, greedy", "tabrl, greedier"))
    with pytest.raises(SystemExit, match="error: Line "):
        main(["report", *options, "--check"])


@needs_rliable
def test_parts_of_two_checkpoints_are_rejected(tmp_path):
    folder = result_folder(tmp_path, online_checkpoint="f" * 64)
    with pytest.raises(report.ReportError, match=r"one checkpoint.*online: ffff"):
        report.summarise(folder)


@needs_rliable
def test_classical_methods_may_come_from_a_run_of_their_own(tmp_path):
    """One file in two, as --baselines-only and --tabrl-only make them."""
    folder = result_folder(tmp_path)
    whole = report.summarise(folder)["tables"]
    header, rows = read_results(folder / "offline.jsonl")
    (folder / "offline.jsonl").unlink()
    for kind, sha in (("tabrl", CHECKPOINT), ("baselines", None)):
        part = [row for row in rows if ("tabrl" in row["method"]) == (kind == "tabrl")]
        run_cells(
            [{"cell": kind}],
            lambda cell, part=part: part,
            folder / f"offline-{kind}.jsonl",
            header | {"checkpoint": sha},
            progress_bar=False,
        )
    parts = report.summarise(folder)["tables"]
    assert parts["offline"] == whole["offline"]
    path = folder / "offline-tabrl.jsonl"
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(ValueError, match="same cells and seeds"):
        report.summarise(folder)


@needs_rliable
def test_compressed_results_are_read_and_older_than_others(tmp_path):
    folder = result_folder(tmp_path)
    expected = report.summarise(folder)
    path = folder / "offline.jsonl"
    with lzma.open(f"{path}.xz", "wb") as file:
        file.write(path.read_bytes())
    (folder / "online.jsonl.xz").write_bytes(b"not to be read")
    assert report.summarise(folder) == expected
    path.unlink()
    assert report.summarise(folder) == expected


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"no" + data])
def test_damaged_compressed_results_are_refused(tmp_path, damage):
    path = tmp_path / "offline.jsonl.xz"
    path.write_bytes(damage(lzma.compress(b'{"header": {}}\n' * 1000)))
    with pytest.raises(ResultsError, match=r"offline.jsonl.xz' must be a whole file"):
        read_results(path)


def test_report_without_rliable_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pretraining.benchmark.report.intervals.find_spec", lambda name: None
    )
    with pytest.raises(SystemExit, match=r"needs rliable.*install.sh"):
        main(["report", str(tmp_path)])


@needs_rliable
def test_report_of_an_empty_folder(tmp_path):
    with pytest.raises(SystemExit, match=r"must have one of offline.jsonl, online"):
        main(["report", str(tmp_path)])


@pytest.mark.skipif(
    not report.SUMMARY.exists(), reason="no summary of results is committed yet"
)
def test_readme_shows_the_committed_results():
    readme = (report.CHECKPOINT.parents[2] / "README.md").read_text(encoding="utf-8")
    assert "<!-- benchmark: offline -->" in readme
    report.check(readme, report.read_summary())
    assert report.SUMMARY.stat().st_size < 300_000


def test_quick_offline_of_tabrl_prints_its_tables(capsys, monkeypatch):
    from pretraining.benchmark import offline

    small = dataclasses.replace(
        offline.QUICK, environments=("gridworld-3x3",), sizes=(64,), n_seeds=2
    )
    monkeypatch.setattr(offline, "QUICK", small)
    main(["offline", "--quick", "--jobs=1"])
    printed = capsys.readouterr().out
    for method in (offline.TABRL_GREEDY, offline.TABRL_SAMPLED):
        assert f"| {method} | " in printed
    assert "### offline-comparison" in printed
