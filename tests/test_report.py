"""Statistics, tables and pictures of benchmark results, and README's copy of them."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import json
import lzma

import numpy as np
import pytest
from bits import bits

from pretraining.benchmark.__main__ import main
from pretraining.benchmark.baselines.offline import tabrl as tabrl_offline
from pretraining.benchmark.baselines.online import LEARNERS
from pretraining.benchmark.cells import (
    ResultsError,
    read_results,
    run_cells,
    sort_rows,
)
from pretraining.benchmark.environments import ENVIRONMENT_NAMES, FOREIGN_NAMES
from pretraining.benchmark.parts import offline as offline_part
from pretraining.benchmark.parts import online as online_part
from pretraining.benchmark.parts.bandit import bayes_optimal_regret
from pretraining.benchmark.report import hardness as hardness_report
from pretraining.benchmark.report import readme
from pretraining.benchmark.report import rows as row_files
from pretraining.benchmark.report import summary as summaries
from pretraining.benchmark.report.bandit import bandit_tables
from pretraining.benchmark.report.comparison import comparison_table
from pretraining.benchmark.report.coverage import coverage_tables
from pretraining.benchmark.report.curves import (
    falls_table,
    find_falls,
    learning_curves,
)
from pretraining.benchmark.report.hardness import hardness_table
from pretraining.benchmark.report.intervals import (
    bootstrap,
    estimate,
    interquartile_means,
    interval,
    probabilities_of_improvement,
    tail_mean,
    worst_share,
)
from pretraining.benchmark.report.losses import find_losses, loss_table
from pretraining.benchmark.report.offline import offline_scores, offline_tables
from pretraining.benchmark.report.online import episodes, online_tables
from pretraining.benchmark.report.readme import CHECKPOINT, ReportError
from pretraining.benchmark.report.scores import Scores
from pretraining.benchmark.report.speed import speed_tables
from pretraining.benchmark.report.summary import SUMMARY
from pretraining.benchmark.report.table import markdown
from pretraining.benchmark.report.tables import PARTS, part_tables
from pretraining.benchmark.report.thresholds import (
    compare_rows,
    geometric_mean,
    ratio,
    rows_to_reach,
)

needs_rliable = pytest.mark.skipif(
    importlib.util.find_spec("rliable") is None, reason="rliable is not installed"
)
WEIGHTS = json.loads(CHECKPOINT.read_text())["sha256"]


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
    few = rng.integers(5, size=(2, 3, 6)).astype(float)
    pairs = [(x, y), (few[0], few[1]), (x, x - 10), (x, x + 10)]
    (found, low, high), smaller, won, lost = probabilities_of_improvement(pairs)
    assert found == pytest.approx(theirs(x.T, y.T))
    assert low < found < high
    assert won[0] == 1
    assert lost[0] == 0
    # Pairs of other shapes, and other pairs, change nothing.
    assert smaller[0] == pytest.approx(theirs(few[0].T, few[1].T))
    assert probabilities_of_improvement(pairs[:1]) == [[found, low, high]]


@needs_rliable
def test_interquartile_mean_ignores_outliers_and_repeats():
    values = np.arange(80.0).reshape(4, 20)
    values[0, 0] = -1e6
    (first,) = interquartile_means(values[None])
    assert first[0] == pytest.approx(np.arange(20, 60).mean())
    assert interquartile_means(values[None]) == [first]


@needs_rliable
def test_bootstraps_of_several_methods_are_rliables_of_each():
    from rliable.library import get_interval_estimates
    from rliable.metrics import aggregate_iqm

    def theirs(scores, statistic):
        # rliable draws from NumPy's global generator.
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        value, bounds = get_interval_estimates({"": scores}, statistic, reps=2000)
        np.random.set_state(state)  # noqa: NPY002
        return [value[""][0], *bounds[""][:, 0]]

    values = np.random.default_rng(7).normal(size=(3, 7, 6))
    found = interquartile_means(values)
    expected = [
        theirs(x.T, lambda scores: np.array([aggregate_iqm(scores)])) for x in values
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)

    def probability(a, b):
        return np.array([(np.sign(a[:, None] - b[None]).mean() + 1) / 2])

    pairs = [(values[0], values[1]), (values[2], values[0].round())]
    expected = [theirs([x.T, y.T], probability) for x, y in pairs]
    np.testing.assert_allclose(
        probabilities_of_improvement(pairs), expected, rtol=0, atol=1e-15
    )


def test_means_are_drawn_by_counts_as_by_resampled_scores():
    values = np.random.default_rng(8).normal(size=(5, 6))
    slowly = bootstrap(values, lambda scores: scores.mean(axis=-1))
    np.testing.assert_allclose(bootstrap(values), slowly, atol=1e-14)
    # The draws of a cell stay as they are when others join, whatever came before.
    np.testing.assert_array_equal(bootstrap(values[:2]), bootstrap(values)[:2])


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
    text = markdown(tables["offline-environments"])
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
    assert markdown(table).splitlines() == [
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


def online_rows(ours=30.0):
    rows = []
    for seed, name in itertools.product(range(4), ("RiverSwim-6", "DeepSea-6")):
        solved = 20 + seed if name == "RiverSwim-6" or seed else None
        rows.append(online_row("regret", name, "tabrl", seed, ours + seed, solved))
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


def test_methods_of_some_runs_are_compared_on_those_alone():
    rows = online_rows()
    for name in ("UCRL3", "KL-UCRL"):
        for seed in range(2):
            rows.append(online_row("regret", "RiverSwim-6", name, seed, 50.0, 9))
    tables = part_tables("online", rows)
    assert all("UCRL" not in line[0] for line in tables["online"]["rows"])
    lines = {line[1]: line for line in tables["online-some-runs"]["rows"]}
    assert {line[0] for line in lines.values()} == {"1 environments x 2 runs"}
    assert lines["UCRL3"][2] == [50, 50, 50]
    # Of tabrl's and UCB-VI's four runs the first two, and not those in DeepSea.
    assert lines["tabrl"][2][0] == 30.5
    assert lines["UCB-VI, c best per environment in hindsight"][2][0] == 35.5
    table = tables["online-some-runs-environments"]
    (line,) = table["rows"]
    assert line[0] == "RiverSwim-6 (2 runs)"
    assert line[table["columns"].index("KL-UCRL")][0] == 50


def test_foreign_runs_have_tables_of_their_own():
    """Rows of a real run, as the command makes them."""
    protocol = dataclasses.replace(
        online_part.QUICK,
        environments=("RiverSwim-6",),
        methods=("tabrl", "UCB-VI", "PSRL", "UCB-VI, Bernstein"),
        foreign=("queue-21", "WetChicken-5x5"),
        n_episodes=10,
        n_seeds=2,
        convergence_seeds=0,
        size_seeds=0,
        foreign_seeds=2,
    )
    rows = online_part.run(protocol, jobs=1, progress_bar=False)
    # A package's learner runs in fewer environments, and with fewer seeds.
    rows += [
        {**row, "method": "UCRL3", "regret": 40.0}
        for row in rows
        if (row["environment"], row["method"]) == ("queue-21", "PSRL")
        and row["seed"] == 0
    ]
    tables = part_tables("online", rows)
    own = [row for row in rows if row["part"] == "foreign" and row["method"] == "tabrl"]
    lines = {line[0]: line for line in tables["online-foreign"]["rows"]}
    assert len(own) == 4
    mean = np.mean([row["regret"] for row in own])
    assert lines["tabrl"][1][0] == pytest.approx(mean, abs=1e-4)
    assert lines["tabrl"][-1] is not None
    bernstein = [name for name in lines if name.startswith("UCB-VI, Bernstein")]
    assert any("hindsight" in name for name in bernstein)
    assert "UCRL3" not in lines
    names = [line[0] for line in tables["online-foreign-environments"]["rows"]]
    assert names == ["queue-21", "WetChicken-5x5"]
    assert {"online-foreign-losses", "online-foreign-comparison"} <= tables.keys()
    some = {line[1]: line for line in tables["online-foreign-some-runs"]["rows"]}
    assert some["UCRL3"][:2] == ["1 environments x 1 runs", "UCRL3"]
    (first,) = (r for r in own if (r["environment"], r["seed"]) == ("queue-21", 0))
    assert some["tabrl"][2][0] == pytest.approx(first["regret"], abs=1e-4)
    # Development environments are as they are without the foreign ones.
    alone = [row for row in rows if row["environment"] == "RiverSwim-6"]
    assert tables["online"] == part_tables("online", alone)["online"]


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


# Headline figures


def test_rows_to_reach_is_read_between_sizes_and_censored_beyond_them():
    sizes = [16, 64, 256]
    curves = np.array(
        [
            # at once, between, exactly at a size, never, and again after a fall
            [0.95, 0.00, 0.5, 0.0, 0.95],
            [0.96, 0.85, 0.9, 0.5, 0.70],
            [0.97, 0.95, 1.0, 0.8, 1.10],
        ]
    )
    found = rows_to_reach(sizes, curves)
    np.testing.assert_allclose(found, [16, 128, 64, np.inf, 128])
    # One curve by itself, at another level.
    assert rows_to_reach(sizes, curves[:, 3], 0.8) == pytest.approx(256)


def test_sizes_out_of_order_are_refused():
    with pytest.raises(ValueError, match=r"must ascend.*\[64, 16\]"):
        rows_to_reach([64, 16], np.zeros(2))
    with pytest.raises(ValueError, match="for 3 rows"):
        rows_to_reach([16, 64], np.zeros(3))


def test_ratios_are_bounds_where_one_is_censored_and_missing_where_both_are():
    ours = np.array([32.0, 256.0, np.inf, np.inf])
    theirs = np.array([64.0, np.inf, 64.0, np.inf])
    found = ratio(ours, theirs, 1024)
    np.testing.assert_array_equal(found, [2, 4, 1 / 16, np.nan])
    assert geometric_mean(found) == pytest.approx(0.5 ** (1 / 3))


def curve_rows(curves, n_seeds=4, noise=0.0):
    """Rows of methods with given means by size, in one environment."""
    rng = np.random.default_rng(6)
    return [
        {
            **{"part": "offline", "gamma": 0.99, "environment": name},
            **{"behaviour": "uniform", "size": size, "seed": seed},
            **{"method": method, "constant": None},
            "value": mean + noise * rng.normal(),
        }
        for name, by_method in curves.items()
        for method, means in by_method.items()
        for size, mean in zip((16, 64, 256), means, strict=True)
        for seed in range(n_seeds)
    ]


CE = "certainty equivalence, argmax", "certainty equivalence, random ties"
LEARNING = {
    "lake": {"tabrl, greedy": (0, 0.9, 1), CE[0]: (0, 0, 0.9), CE[1]: (0, 0.8, 1)},
    "cliff": {"tabrl, greedy": (0, 0.5, 0.9), CE[0]: (0, 0, 0), CE[1]: (0.9, 1, 1)},
    "sea": {"tabrl, greedy": (0, 0, 0), CE[0]: (0, 0, 0), CE[1]: (0, 0, 0)},
    "swim": {"tabrl, greedy": (0, 0.9, 1), CE[0]: (0, 0, 0), CE[1]: (0, 0, 0)},
}


def test_rows_are_compared_with_the_better_of_a_family():
    (found,) = compare_rows(offline_scores(sort_rows(curve_rows(LEARNING))))
    assert (found.method, found.peer) == ("tabrl, greedy", "certainty equivalence")
    ratios = {w[1]: x for w, x in zip(found.worlds, found.values, strict=True)}
    expected = {"lake": 2, "cliff": 1 / 16, "sea": np.nan, "swim": 4}
    assert ratios == pytest.approx(expected, nan_ok=True)
    # Without noise the interval is the figure.
    assert found.mean() == pytest.approx([0.5 ** (1 / 3)] * 3)
    assert found.share(2.0) == pytest.approx([2 / 3] * 3)
    assert found.at_least.sum() == 1
    assert not found.at_most.any()
    tables = part_tables("offline", curve_rows(LEARNING))
    (row,) = tables["offline-rows"]["rows"]
    assert row[-2:] == ["3, 1, 0, 1", "cliff, uniform: 0.06"]
    (row,) = tables["short-rows"]["rows"]
    assert row[-1] == "0.06: cliff, uniform"
    cells = {line[0]: line[1] for line in tables["offline-ratios"]["rows"]}
    assert cells["swim, uniform"] == ">4.00"
    assert cells["sea, uniform"] is None


def test_a_peer_without_its_last_size_is_noticed():
    # A planted fault: it would be censored at 64 rows instead of 256.
    found = [
        row
        for row in curve_rows(LEARNING)
        if row["method"] != CE[0] or row["size"] < 256
    ]
    (scores,) = offline_scores(sort_rows(found))
    assert scores.partial == [CE[0]]
    (ratios,) = compare_rows([scores])
    swim = ratios.worlds.index((0.99, "swim", "uniform"))
    assert ratios.values[swim] == pytest.approx(4)


def test_falls_are_found_with_their_interval():
    curves = {
        "lake": {"tabrl, greedy": (0.5, 0.9, 0.85)},
        "cliff": {"tabrl, greedy": (0.5, 0.9, 0.89)},
        "sea": {"tabrl, greedy": (0.9, 0.5, 0.4)},
    }
    groups = offline_scores(sort_rows(curve_rows(curves)))
    falls = find_falls(learning_curves(groups, "tabrl, greedy"))
    found = [(fall.world[1], fall.sizes, fall.amount) for fall in falls]
    assert found == [
        ("sea", (16, 64), pytest.approx([0.4] * 3)),
        ("sea", (64, 256), pytest.approx([0.1] * 3)),
        ("lake", (64, 256), pytest.approx([0.05] * 3)),
    ]
    assert all(fall.is_sure for fall in falls)
    table = offline_tables(sort_rows(curve_rows(curves)))["offline-falls"]
    assert "3 of 6 steps, 3 surely" in table["caption"]


def test_a_fall_within_the_noise_is_not_sure():
    curves = {"lake": {"tabrl, greedy": (0.5, 0.9, 0.87)}}
    groups = offline_scores(sort_rows(curve_rows(curves, 20, noise=0.5)))
    curve = learning_curves(groups, "tabrl, greedy")
    before, after = (curve[0.99, "lake", "uniform"][size].mean() for size in (64, 256))
    (fall,) = find_falls(curve, least=before - after - 1e-9)[-1:]
    assert not fall.is_sure
    assert not find_falls(curve, least=1.0)


def test_one_percent_tail_is_pooled_over_cells():
    values = np.arange(400.0).reshape(20, 20)
    # The worst four of 400, all of the first cell.
    value, low, high = worst_share([values, values + 100])
    assert value == pytest.approx(51.5)
    assert low < value < high
    # 10% of one cell is the tail of `tail_mean`.
    assert worst_share([values[:1]], 0.1)[0] == tail_mean(values)[0]
    # Not a mean of the cells' own tails, which the other cells would raise.
    assert worst_share([values])[0] < tail_mean(values).mean()


def test_losses_are_to_the_strongest_peer_and_the_largest_first():
    found = offline_rows()
    for row in found:
        if row["environment"] == "cliff" and row["behaviour"] == "uniform":
            # Both are ahead of tabrl here, one by more.
            if row["method"] == "certainty equivalence":
                row["value"] += 0.5
            if row["constant"] == 1.0:
                row["value"] += 0.1
        if row["environment"] == "lake" and row["constant"] == 0.1:
            row["value"] += 0.12 + 0.01 * (row["behaviour"] == "uniform")
    losses = find_losses([arranged(found)], ("environment", "behaviour"))
    ours = [loss for loss in losses if loss[0] == "tabrl, greedy"]
    assert [loss[1:3] for loss in ours] == [
        (("cliff", "uniform"), "certainty equivalence"),
        (("lake", "uniform"), HINDSIGHT),
        (("lake", "softmax"), HINDSIGHT),
    ]
    assert ours[0][-1] == pytest.approx([0.2, 0.2, 0.2], abs=0.03)
    assert ours[0][-1][1] < ours[0][-1][0] < ours[0][-1][2]
    # The sampled policy is worth less, so it loses more and more often.
    theirs = [loss[1] for loss in losses if loss[0] == "tabrl, sampled"]
    assert theirs[0] == ("cliff", "uniform")
    amounts = [loss[-1][0] for loss in losses]
    assert amounts == sorted(amounts, reverse=True)


def test_losses_of_regret_are_to_the_lower():
    (table,) = (online_tables(online_rows(ours))["online-losses"] for ours in (40.0,))
    best = "UCB-VI, c best per environment in hindsight"
    assert [row[:3] for row in table["rows"]] == [
        ["tabrl", "RiverSwim-6", best],
        ["tabrl", "DeepSea-6", best],
    ]
    assert table["rows"][0][-1][0] == pytest.approx(5)
    assert not online_tables(online_rows())["online-losses"]["rows"]


def test_coverage_counts_behaviours_alike_and_may_be_missing():
    found = curve_rows({"lake": {"tabrl, greedy": (0, 0, 0)}})
    assert coverage_tables(found) == {}
    for row in found:
        row |= {"coverage": 0.5 if row["size"] == 16 else None, "width": 2.0}
    more = [
        {**row, "behaviour": "softmax", "coverage": 0.9}
        for row in found
        if row["seed"] == 0 and row["size"] < 256
    ]
    tables = coverage_tables(found + more)
    assert tables["offline-coverage"]["columns"] == ["environment", "16", "64"]
    assert tables["offline-coverage"]["rows"] == [
        ["lake", pytest.approx([0.7] * 3), pytest.approx([0.9] * 3)],
        ["mean over environments", pytest.approx(0.7), pytest.approx(0.9)],
    ]
    assert tables["offline-width"]["rows"] == [
        ["lake", *[[2, 2, 2]] * 3],
        ["mean over environments", 2, 2, 2],
    ]
    # A planted fault: intervals of another method are not tabrl's.
    others = [{**row, "method": "DUIPI"} for row in found]
    assert coverage_tables(others) == {}


def test_short_tables_have_tabrl_first_and_seven_lines():
    found = offline_rows()
    for i in range(8):
        found += [
            {**row, "method": f"peer {i}", "value": row["value"] + i / 100}
            for row in found
            if row["method"] == "certainty equivalence"
        ]
    lines = part_tables("offline", found)["short-offline"]["rows"]
    names = [line[0] for line in lines]
    assert names[:3] == [
        "tabrl, greedy",
        "tabrl, sampled",
        HINDSIGHT.replace(" best per environment in", " in"),
    ]
    assert names[3:] == ["peer 7", "peer 6", "peer 5", "peer 4"]
    assert lines[0][-1] is None
    assert lines[3][-1] == "2, 0, 0"


def test_foreign_environments_have_tables_of_their_own(monkeypatch):
    everything = offline_rows(shift=0.15)
    alone = [row for row in everything if row["environment"] == "lake"]
    monkeypatch.setattr(row_files, "foreign_names", lambda: frozenset({"cliff"}))
    tables = part_tables("offline", everything)
    assert tables["offline"] == part_tables("offline", alone)["offline"]
    (line,) = tables["offline-foreign-environments"]["rows"]
    assert line[0] == "cliff"
    assert "short-offline-foreign" in tables
    assert "short-rows-foreign" in tables


def test_hardness_is_measured_once_and_of_known_environments_alone(tmp_path):
    path = tmp_path / "hardness.json"
    table = hardness_table(["lake", "gridworld-3x3", "RandomMDP-50-4"], path)
    (grid, drawn) = table["rows"]
    # The goal of the grid is absorbing.
    assert grid[:5] == ["gridworld-3x3", "development", 9, 4, "infinite"]
    assert drawn[:4] == ["RandomMDP-50-4", "foreign", 50, 4]
    assert hardness_table(["lake"], path) is None
    # What the file has is not measured again.
    path.write_text(path.read_text().replace('"n_states": 9', '"n_states": 8'))
    assert hardness_table(["gridworld-3x3"], path)["rows"][0][2] == 8


def test_the_kept_hardness_is_that_of_the_environments():
    kept = json.loads(hardness_report.FILE.read_text())
    assert kept.keys() == {*ENVIRONMENT_NAMES, *FOREIGN_NAMES}
    for name in ("RiverSwim-6", "gridworld-3x3", "queue-21"):
        found = hardness_report.measure(name)
        assert kept[name].keys() == found.keys()
        # None, which is infinite, becomes NaN in both.
        values = [np.array([*x.values()], dtype=float) for x in (kept[name], found)]
        np.testing.assert_allclose(*values, rtol=1e-5)


# Rows that are the same twice


def test_tables_do_not_depend_on_the_order_of_rows():
    parts = {"offline": offline_rows(), "online": online_rows()}
    for part, found in parts.items():
        expected = part_tables(part, found)
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(len(found))
            shuffled = [found[i] for i in order]
            assert part_tables(part, shuffled) == expected
    # A planted fault: without sorting, draws go to other cells.
    found = offline_rows()
    assert offline_tables(found[::-1])["offline"] != offline_tables(found)["offline"]


def test_names_with_numbers_sort_as_numbers():
    names = ["Garnet-200-8-5", "Garnet-50-4-4", "forest-10", None, "Garnet-50-4-3"]
    placed = sort_rows([{"environment": name} for name in names])
    assert [row["environment"] for row in placed] == [
        *(None, "forest-10", "Garnet-50-4-3", "Garnet-50-4-4", "Garnet-200-8-5"),
    ]


@pytest.mark.parametrize("part", ["offline", "online"])
def test_a_cell_depends_on_its_parameters_alone(part, tmp_path):
    """Other cells, their order, and processes change nothing, to the last bit."""
    if part == "offline":
        protocol = offline_part.Protocol(
            environments=("gridworld-3x3", "RiverSwim-6"),
            behaviours=("uniform", "softmax"),
            sizes=(64,),
            n_seeds=2,
            large_sizes=(),
            checkpoint=None,
        )
        score = functools.partial(offline_part.score_cell, protocol=protocol)
        cells = protocol.cells()
    else:
        names = ("gridworld-3x3", "RiverSwim-6")
        protocol = online_part.Protocol(
            environments=names, n_seeds=2, n_episodes=3, checkpoint=None
        )
        score = functools.partial(online_part.score_cell, checkpoint=None)
        cells = [
            cell
            for cell in protocol.cells()
            if cell["part"] == "regret" and LEARNERS[cell["method"]].package is None
        ]
    lines = {}
    for name, order, jobs in (("a", cells, 1), ("b", cells[::-1], 2)):
        path = tmp_path / f"{name}.jsonl"
        run_cells(order, score, path, {}, jobs, progress_bar=False)
        lines[name] = sort_rows(read_results(path)[1])
    assert bits(lines["a"]) == bits(lines["b"])
    # By itself, one cell has the same rows.
    (last,) = cells[-1:]
    alone = run_cells([last], score, None, {}, progress_bar=False)
    part_of = [row for row in lines["a"] if last.items() <= row.items()]
    assert bits(sort_rows(alone)) == bits(part_of)


# Summary and README


def result_folder(folder, checkpoint=WEIGHTS, online_checkpoint=None):
    """Write result files as the parts of the benchmark do."""
    parts = {"offline": offline_rows(shift=0.15), "online": online_rows()}
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
    return json.loads(json.dumps({"checkpoint": WEIGHTS, "tables": tables}))


def test_readme_is_filled_and_checked(summary):
    filled = readme.fill(README, summary)
    assert markdown(summary["tables"]["offline"]) in filled
    assert filled.startswith("Before.\n")
    assert filled.endswith("After.\n")
    assert "old" not in filled
    assert readme.fill(filled, summary) == filled
    readme.check(filled, readme.fill(filled, summary), "README.md")


def test_an_edited_number_is_found(summary):
    filled = readme.fill(README, summary)
    number = f"{summary['tables']['offline']['rows'][0][1][0]:.3f}"
    better = f"{float(number) + 0.1:.3f}"
    edited = filled.replace(number, better, 1)
    expected = f"of README.md must be .*{number}.*Found .*{better}"
    with pytest.raises(ReportError, match=expected):
        readme.check(edited, readme.fill(edited, summary), "README.md")
    with pytest.raises(ReportError, match=r"Line .* must be"):
        readme.check(README, filled, "README.md")


def test_a_missing_last_line_is_found():
    with pytest.raises(ReportError, match=r"Line 2 of x must be 'b'.*Found nothing"):
        readme.check("a\n", "a\nb\n", "x")


def test_results_of_another_checkpoint_are_rejected(summary):
    readme.check_weights(summary)
    other = {**summary, "checkpoint": "f" * 64}
    with pytest.raises(ReportError, match="must be of the bundled checkpoint"):
        readme.check_weights(other)


def test_all_tables_but_the_short_ones_are_in_the_results(summary):
    text = readme.results_text(summary)
    for name, table in summary["tables"].items():
        assert (f"### {name}\n\n{markdown(table)}" in text) != ("short" in name)
    assert text.index("### online-losses") < text.index("### offline\n")


def test_the_summary_is_of_the_rows_that_are_kept():
    """Hashes say so of the rows; some tables are made again, to the last digit.

    Those of the offline part take minutes for all rows, and use the same code on the
    rows of tests. Made again is what needs the mean of each cell alone.
    """
    kept = summaries.read_summary(SUMMARY)
    compared = set()
    for part in PARTS:
        files = row_files.result_files(SUMMARY.parent, part)
        headers, found = row_files.read_part(SUMMARY.parent, part)
        for name, header in headers.items():
            said = kept["provenance"].pop(name)
            assert said.pop("digest") == row_files.digest(files[name])
            assert {**header, "protocol": None} == {**said, "protocol": None}
        if part == "offline":
            known = row_files.of_group(found, row_files.DEVELOPMENT)
            groups = offline_scores(sort_rows(known))
            (scores, *_) = groups
            scale = "Normalised value: 0 is the uniform policy, 1 the optimal one."
            places = "environment", "behaviour"
            tables = {
                "offline-falls": falls_table(groups),
                "offline-losses": loss_table(groups, places, scale),
            }
            means = {line[0]: line[1][0] for line in kept["tables"][part]["rows"]}
            assert means == pytest.approx(
                {name: scores.values(name).mean() for name in scores.methods}, abs=1e-5
            )
        else:
            tables = part_tables(part, found)
        for name, table in tables.items():
            shown = kept["tables"][name]
            if shown["columns"] == table["columns"]:
                assert markdown(shown) == markdown(table)
                compared.add(name)
    assert not kept["provenance"]
    assert compared >= {"online-environments", "online-losses", "bandit", "speed"}
    assert compared >= {"offline-falls", "offline-losses"}


def test_an_edited_result_file_has_another_digest(tmp_path):
    path = tmp_path / "offline.jsonl"
    path.write_text('{"header": {}}\n{"value": 0.5}\n')
    compressed = tmp_path / "offline.jsonl.xz"
    compressed.write_bytes(lzma.compress(path.read_bytes()))
    assert row_files.digest(path) == row_files.digest(compressed)
    compressed.write_bytes(lzma.compress(path.read_bytes().replace(b"0.5", b"0.6")))
    assert row_files.digest(path) != row_files.digest(compressed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- benchmark: offlin -->\n<!-- end -->", "must name one of offline, "),
        ("<!-- benchmark: offline -->\n", "needs its <!-- end -->"),
        (README.replace("<!-- end -->\n\n", ""), "needs its <!-- end -->"),
    ],
)
def test_wrong_markers_are_errors(summary, text, message):
    with pytest.raises(ReportError, match=message):
        readme.fill(text, summary)


@needs_rliable
def test_report_of_a_folder_end_to_end(tmp_path):
    folder = result_folder(tmp_path / "results")
    page, summary_path = tmp_path / "README.md", tmp_path / "summary.json"
    page.write_text(README)
    all_tables, picture = tmp_path / "RESULTS.md", tmp_path / "overview.png"
    options = [f"--summary={summary_path}", f"--readme={page}"]
    options += [f"--results={all_tables}", f"--overview={picture}"]
    main(["report", str(folder), *options, f"--figures={tmp_path / 'figures'}"])
    pictures = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert pictures >= {"offline", "offline-sizes", "offline-profiles", "online"}
    assert pictures >= {"online-regret", "online-deep-sea"}
    assert pictures >= {"offline-curves", "offline-ratios"}
    assert "interquartile mean" in page.read_text()
    assert picture.stat().st_size < 60_000
    main(["report", *options, "--check"])
    # The same results give the same summary.
    again = json.loads(json.dumps(summaries.summarise(folder)))
    assert again == summaries.read_summary(summary_path)
    for path in (page, all_tables):
        text = path.read_text()
        path.write_text(text.replace("tabrl, greedy", "tabrl, greedier"))
        with pytest.raises(SystemExit, match=f"error: Line .* of {path.name}"):
            main(["report", *options, "--check"])
        path.write_text(text)


@needs_rliable
def test_parts_of_two_checkpoints_are_rejected(tmp_path):
    folder = result_folder(tmp_path, online_checkpoint="f" * 64)
    with pytest.raises(ReportError, match=r"one checkpoint.*online: ffff"):
        summaries.summarise(folder)


@needs_rliable
def test_classical_methods_may_come_from_a_run_of_their_own(tmp_path):
    """One file in two, as --baselines-only and --tabrl-only make them."""
    folder = result_folder(tmp_path)
    whole = summaries.summarise(folder)["tables"]
    header, rows = read_results(folder / "offline.jsonl")
    (folder / "offline.jsonl").unlink()
    for kind, sha in (("tabrl", WEIGHTS), ("baselines", None)):
        part = [row for row in rows if ("tabrl" in row["method"]) == (kind == "tabrl")]
        run_cells(
            [{"cell": kind}],
            lambda cell, part=part: part,
            folder / f"offline-{kind}.jsonl",
            header | {"checkpoint": sha},
            progress_bar=False,
        )
    parts = summaries.summarise(folder)["tables"]
    assert parts["offline"] == whole["offline"]
    path = folder / "offline-tabrl.jsonl"
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(ValueError, match="same cells and seeds"):
        summaries.summarise(folder)


@needs_rliable
def test_compressed_results_are_read_and_older_than_others(tmp_path):
    folder = result_folder(tmp_path)
    expected = summaries.summarise(folder)
    path = folder / "offline.jsonl"
    with lzma.open(f"{path}.xz", "wb") as file:
        file.write(path.read_bytes())
    (folder / "online.jsonl.xz").write_bytes(b"not to be read")
    assert summaries.summarise(folder) == expected
    path.unlink()
    assert summaries.summarise(folder) == expected


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
    not SUMMARY.exists(), reason="no summary of results is committed yet"
)
def test_readme_shows_the_committed_results():
    main(["report", "--check"])
    assert SUMMARY.stat().st_size < 400_000
    assert readme.OVERVIEW.stat().st_size < 60_000
    assert "<!-- benchmark: short-offline -->" in readme.README.read_text("utf-8")
    for name, table in summaries.read_summary()["tables"].items():
        assert not name.startswith("short-") or len(table["rows"]) <= 7


def test_quick_offline_of_tabrl_prints_its_tables(capsys, monkeypatch):
    small = dataclasses.replace(
        offline_part.QUICK, environments=("gridworld-3x3",), sizes=(64,), n_seeds=2
    )
    monkeypatch.setattr(offline_part, "QUICK", small)
    main(["offline", "--quick", "--jobs=1"])
    printed = capsys.readouterr().out
    for method in (tabrl_offline.GREEDY, tabrl_offline.SAMPLED):
        assert f"| {method} | " in printed
    assert "### offline-comparison" in printed
