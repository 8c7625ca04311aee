"""Time and memory of fit, and of an agent, each measured in a process of its own.

`python tests/test_speed.py table` prints the figures of the large table, `text` in its
place those of a large text file, `log` those of the bundled log, `agent` those of an
agent that explores.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
N_ROWS, N_STATES, N_ACTIONS, N_NEXT = 1_000_000, 1000, 10, 5


def garnet_table() -> pd.DataFrame:
    """Draw rows of a random process: every pair has 5 successors and a noisy reward."""
    rng = np.random.default_rng(0)
    successors = rng.integers(N_STATES, size=(N_STATES, N_ACTIONS, N_NEXT))
    reward = rng.normal(size=(N_STATES, N_ACTIONS))
    state = rng.integers(N_STATES, size=N_ROWS)
    action = rng.integers(N_ACTIONS, size=N_ROWS)
    which = rng.integers(N_NEXT, size=N_ROWS)
    return pd.DataFrame(
        {
            "state": state,
            "action": action,
            "reward": reward[state, action] + 0.1 * rng.normal(size=N_ROWS),
            "next_state": successors[state, action, which],
            "terminated": rng.random(N_ROWS) < 0.001,
        }
    )


def resident_bytes(name: str) -> int:
    """Return a line of /proc/self/status: VmRSS is the memory now, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(name)]
    return 1024 * int(line.split()[1])


def seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure_table() -> dict[str, float]:
    from tabrl import OfflinePolicyEstimator

    table = garnet_table()
    estimator = OfflinePolicyEstimator()
    estimator.fit(table.head(1000))  # loads libraries and the checkpoint
    # tracemalloc does not see torch, so this is the peak of the whole process.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    estimator.fit(table)
    extra = resident_bytes("VmHWM") - before

    def group():
        table.groupby(["state", "action", "next_state"]).agg(
            n=("reward", "size"),
            total=("reward", "sum"),
            n_terminated=("terminated", "sum"),
        )

    group()
    # In turns, so that a load on the machine falls on both.
    times = [(seconds(lambda: estimator.fit(table)), seconds(group)) for _ in range(3)]
    fit, pandas = map(statistics.median, zip(*times, strict=True))
    return {
        "fit_seconds": fit,
        "pandas_seconds": pandas,
        "ratio": fit / pandas,
        "extra_per_table": extra / table.memory_usage().sum(),
    }


def measure_text() -> dict[str, float]:
    """Measure how far `tabrl fit` of a file of 36 MB lifts the peak of memory."""
    import tempfile

    from tabrl import __main__, _reading

    # Small, so that a file of two seconds is as one larger than memory.
    _reading._BLOCK_BYTES, _reading._PART_BYTES = 2**16, 2**20
    rows = [f"{i % 97},{i % 7},0.5,{i * i % 97},False\n" for i in range(20_000)]
    header = "state,action,reward,next_state,terminated\n"
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        log, policy = Path(folder) / "log.csv", Path(folder) / "policy.csv"
        for times in (10, 100):
            log.write_text(header + "".join(rows) * times)
            Path("/proc/self/clear_refs").write_text("5")
            assert __main__.main(["fit", str(log), "-o", str(policy)]) == 0
            peaks.append(resident_bytes("VmHWM"))
        size = log.stat().st_size
    return {"extra_per_file": (peaks[1] - peaks[0]) / size}


def measure_log() -> dict[str, float]:
    """Measure the first fit and predict in a process, with loading the checkpoint."""
    from tabrl import OfflinePolicyEstimator

    table = pd.read_csv(ROOT / "examples" / "data" / "frozenlake_random.csv")
    estimator = OfflinePolicyEstimator()
    took = seconds(lambda: estimator.fit(table).predict(range(16)))

    def predict_often():
        for _ in range(100):
            estimator.predict([3])

    rounds = [seconds(predict_often) for _ in range(20)]
    return {
        "fit_predict_seconds": took,
        "predict_microseconds": 1e6 * min(rounds) / 100,
    }


def measure_agent() -> dict[str, float]:
    """Measure plans, act and observe, each the fastest of some rounds."""
    from tabrl import OnlineAgent

    rng = np.random.default_rng(0)
    figures = {}
    for n_states in (100, 2500):
        successors = rng.integers(n_states, size=(n_states, 4, 4))
        agent = OnlineAgent(n_states, 4, reward_range=(0, 1), random_state=0)
        steps, plans, state = [], [], 0
        for _ in range(8):
            agent.act(state)  # plans
            path = []
            began = time.perf_counter()
            for _ in range(2000):
                action = agent.act(state)
                after = int(successors[state, action, len(path) % 4])
                agent.observe(state, action, float(after % 7 == 0), after, False)
                path.append(state)
                state = after
                agent._replanning.doubled = False  # no plan on the way
                agent._replanning.tried.clear()
            steps.append((time.perf_counter() - began) / 2000)
            agent.observe(state, 0, 0.0, state, False, True)
            plans.append(seconds(lambda agent=agent: agent.exploration_proba([0])))
        figures[f"plan_seconds_{n_states}"] = min(plans[2:])
        figures[f"step_microseconds_{n_states}"] = 1e6 * min(steps)
    return figures


def measured(what: str) -> dict[str, float]:
    """Return the figures of a new process on one core, as pandas uses one."""
    run = subprocess.run(
        [sys.executable, __file__, what],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_million_rows_take_three_group_bys_of_time_and_three_tables_of_memory():
    figures = measured("table")
    assert figures["extra_per_table"] < 3, figures
    if figures["ratio"] > 3:
        figures = measured("table")  # other processes share the machine
    assert figures["ratio"] <= 3, figures


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_text_file_of_any_size_takes_the_memory_of_a_part():
    assert measured("text")["extra_per_file"] < 0.5


def test_fit_takes_a_second_and_predict_of_a_state_40_microseconds():
    figures = [measured("log") for _ in range(2)]
    assert min(run["fit_predict_seconds"] for run in figures) < 1
    # Alone on a core it takes 11; other processes share the machine.
    assert min(run["predict_microseconds"] for run in figures) < 40


def test_an_agent_plans_in_20_milliseconds_and_steps_in_40_microseconds():
    """The larger process in a second; a step is one call of act and one of observe."""
    limits = {
        "plan_seconds_100": 0.02,
        "plan_seconds_2500": 1.0,
        "step_microseconds_100": 40,
        "step_microseconds_2500": 40,
    }
    figures = measured("agent")
    if any(figures[name] > limit for name, limit in limits.items()):
        again = measured("agent")  # other processes share the machine
        figures = {name: min(value, again[name]) for name, value in figures.items()}
    assert figures.keys() == limits.keys()
    assert all(figures[name] <= limit for name, limit in limits.items()), figures


if __name__ == "__main__":
    measures = {
        "table": measure_table,
        "text": measure_text,
        "log": measure_log,
        "agent": measure_agent,
    }
    print(json.dumps(measures[sys.argv[1]]()))
