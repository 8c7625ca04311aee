import copy
import datetime as dt
import io
import json
import pickle
import uuid
from decimal import Decimal
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from sklearn.exceptions import NotFittedError

from tabrl import OfflinePolicyEstimator
from tabrl._persistence import read, write

UTC = dt.timezone.utc
# Pairs of labels of each kind that can be saved.
LABELS = {
    "ints": [3, -(2**60)],
    "uints": np.array([1, 2**63 + 1], np.uint64),
    "small ints": np.array([1, 2], np.int8),
    "floats": [0.1, 2.5],
    "bools": [True, False],
    "text": ["\u00e9 \ud800", ""],
    "tuples": [(0, "a"), (1, "b")],
    "nested": [((0, 1.5), True), ((2, 0.5), False)],
    "mixed": [1, "one"],
    "large ints": [2**70, 1],
    "datetime64": np.array(["2026-01-01", "2026-01-02T03"], "datetime64[ns]"),
    "timedelta64": np.array([1, 2], "timedelta64[s]"),
    "datetimes": [dt.datetime(2026, 1, 1, 2, 3, 4, 5), dt.datetime(2026, 1, 2)],
    "aware": [
        dt.datetime(2026, 1, 1, tzinfo=UTC),
        dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2))),
    ],
    "dates": [dt.date(2026, 1, 1), dt.date(2026, 1, 2)],
    "timestamps": [(pd.Timestamp("2026-01-01"), 1), (pd.Timestamp("2026-01-02"), 1)],
    "datetime64 in tuples": [
        (np.datetime64("2026-01-01", "ns"),),
        (np.datetime64("2026-01-02", "ns"),),
    ],
    "numpy in tuples": [(np.int64(1), np.str_("a")), (np.int64(2), np.str_("b"))],
}


def make_log(states, actions=("left", "right")):
    rng = np.random.default_rng(0)
    n = 60
    i, j, k = (rng.integers(2, size=n) for _ in range(3))

    def pick(labels, codes):
        if isinstance(labels, np.ndarray):
            return labels[codes]
        return [labels[code] for code in codes]

    return {
        "state": pick(states, i),
        "action": pick(actions, j),
        "reward": rng.normal(size=n),
        "next_state": pick(states, k),
        "terminated": rng.random(n) < 0.2,
    }


def assert_same(loaded, policy):
    assert vars(loaded).keys() == vars(policy).keys()
    for name in ("states_", "actions_"):
        found, expected = getattr(loaded, name), getattr(policy, name)
        assert found.dtype == expected.dtype
        assert found.tolist() == expected.tolist()
    states = policy.states_
    np.testing.assert_array_equal(loaded.predict(states), policy.predict(states))
    for ask in ("predict_proba", "action_values"):
        found, expected = getattr(loaded, ask)(states), getattr(policy, ask)(states)
        np.testing.assert_array_equal(found, expected)
    assert loaded.n_transitions_ == policy.n_transitions_


@pytest.mark.parametrize("kind", LABELS)
def test_loaded_policy_is_the_saved_one(kind, tmp_path):
    labels = LABELS[kind]
    log = make_log(labels)
    policy = OfflinePolicyEstimator(0.9, random_state=0).fit(log)
    policy.save(tmp_path / "policy")
    loaded = OfflinePolicyEstimator.load(tmp_path / "policy")
    assert_same(loaded, policy)
    np.testing.assert_array_equal(
        loaded.predict_proba(labels), policy.predict_proba(labels)
    )
    assert_same(loaded.partial_fit(log), policy.partial_fit(log))
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_parameters_come_back(tmp_path):
    for parameters in (
        {"gamma": np.float64(0.5), "reward_range": np.array([-9, 9])},
        {"random_state": np.random.RandomState(3), "checkpoint": Path("auto")},
        {"random_state": np.int64(3), "device": torch.device("cpu")},
    ):
        policy = OfflinePolicyEstimator(**parameters).fit(make_log([0, 1]))
        policy.save(tmp_path / "policy")
        loaded = OfflinePolicyEstimator.load(tmp_path / "policy")
        assert loaded.gamma == policy.gamma
        assert loaded.device == str(policy.device)
        assert loaded.checkpoint == "auto"
        if policy.reward_range is None:
            assert loaded.reward_range is None
        else:
            assert loaded.reward_range == (-9.0, 9.0)
        draws = [
            p.random_state.random_sample(5).tolist()
            if isinstance(p.random_state, np.random.RandomState)
            else p.random_state
            for p in (loaded, policy)
        ]
        assert draws[0] == draws[1]


def test_policy_of_an_absent_device_loads_here(tmp_path):
    log = make_log([0, 1])
    policy = OfflinePolicyEstimator(random_state=0).fit(log)
    expected = copy.deepcopy(policy)
    policy.device = "xla"  # no torch here has it
    policy.save(tmp_path / "policy")
    loaded = OfflinePolicyEstimator.load(tmp_path / "policy")
    assert loaded.device == "auto"
    assert_same(loaded, expected)
    loaded.partial_fit(log)
    loaded = OfflinePolicyEstimator.load(tmp_path / "policy", device="cpu")
    assert loaded.device == "cpu"
    loaded.partial_fit(log)
    unpickled = pickle.loads(pickle.dumps(policy))
    assert_same(unpickled, expected)
    unpickled.set_params(device="cpu").partial_fit(log)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_policy_fitted_on_cuda(tmp_path):
    policy = OfflinePolicyEstimator(device="cuda", random_state=0).fit(make_log([0, 1]))
    policy.save(tmp_path / "policy")
    assert_same(OfflinePolicyEstimator.load(tmp_path / "policy", device="cpu"), policy)
    assert b"cuda" not in pickle.dumps(vars(policy)["_policy"])


@pytest.mark.parametrize(
    "label",
    [
        uuid.UUID(int=1),
        Decimal("1.5"),
        b"bytes",
        frozenset({1}),
        (1, uuid.UUID(int=2)),
        (pd.Timestamp(1), 2),  # a nanosecond is beyond datetime
    ],
)
def test_other_labels_are_refused(label, tmp_path):
    path = tmp_path / "policy"
    path.write_text("what was there")
    other = type(label)((3,)) if isinstance(label, frozenset) else label
    policy = OfflinePolicyEstimator().fit(make_log([label, other]))
    with pytest.raises(TypeError, match=r"in states_.*Convert the labels"):
        policy.save(path)
    assert path.read_text() == "what was there"
    assert len(list(tmp_path.iterdir())) == 1


def test_only_a_fitted_policy_is_saved(tmp_path):
    with pytest.raises(NotFittedError):
        OfflinePolicyEstimator().save(tmp_path / "policy")


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("was unpickled",)


def saved(tmp_path: Path, change) -> Path:
    """Save a policy after a change of its content and arrays."""
    path = tmp_path / "policy"
    OfflinePolicyEstimator().fit(make_log([(0,), (1,)])).save(path)
    arrays = {
        name: array.copy() for name, array in load_arrays(path.read_bytes()).items()
    }
    content = json.loads(arrays["json"].tobytes())
    change(content, arrays)
    arrays["json"] = np.frombuffer(json.dumps(content).encode(), np.uint8)
    path.write_bytes(save_arrays(arrays))
    return path


def fill(name, value):
    return lambda content, arrays: arrays[name].fill(value)


def shorten(name):
    return lambda content, arrays: arrays.update({name: arrays[name][:-1].copy()})


DAMAGED = {
    "kind": lambda content, arrays: content.update(kind="OnlineAgent"),
    "no meta": lambda content, arrays: content.pop("meta"),
    "no parameters": lambda content, arrays: content.update(meta={}),
    "parameter": lambda c, a: c["meta"]["parameters"].update(extra=1),
    "labels": lambda content, arrays: content.update(labels=[]),
    "label": lambda c, a: c["labels"].update(states_=[{"os.system": 1}] * 2),
    "unhashable": lambda c, a: c["labels"].update(states_=[None, None]),
    "dtype": lambda c, a: c["labels"].update(_greedy="O"),
    "labels short": lambda c, a: c["labels"]["states_"].pop(),
    "no table": lambda content, arrays: arrays.pop("_policy"),
    "greedy": fill("_greedy", 2),
    "negative": fill("_greedy", -1),
    "pair": fill("pair_state", 10**9),
    "edge": fill("edge_pair", -1),
    **{name: shorten(name) for name in ("n", "edge_count", "_values", "_greedy")},
}


@pytest.mark.parametrize("how", DAMAGED)
def test_damaged_file(how, tmp_path):
    path = saved(tmp_path, DAMAGED[how])
    with pytest.raises(ValueError, match=r"must (be a file written by|hold a policy)"):
        OfflinePolicyEstimator.load(path)


def test_other_files(tmp_path):
    path = tmp_path / "policy"
    with pytest.raises(FileNotFoundError):
        OfflinePolicyEstimator.load(path)
    for content in (b"", b"\0" * 99, b"{}", pickle.dumps(Bomb())):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"OfflinePolicyEstimator\.save"):
            OfflinePolicyEstimator.load(path)
    path.write_bytes(save_arrays({"weights": np.zeros(3)}))
    with pytest.raises(ValueError, match=r"OfflinePolicyEstimator\.save"):
        OfflinePolicyEstimator.load(path)


def test_newer_format_names_the_version_that_reads_it(tmp_path):
    path = saved(tmp_path, lambda c, _: c.update(format=9, tabrl=">=4"))
    with pytest.raises(ValueError, match=r"format 9; .* tabrl>=4 reads it"):
        OfflinePolicyEstimator.load(path)


def test_unchanged_file_loads(tmp_path):
    assert saved(tmp_path, lambda *_: None).stat().st_size < 5000
    OfflinePolicyEstimator.load(tmp_path / "policy")


def test_kinds_are_apart(tmp_path):
    write(tmp_path / "file", "Agent", {"a": [1, None]}, {"x": np.zeros((2, 3))})
    meta, arrays = read(tmp_path / "file", "Agent")
    assert meta == {"a": [1, None]}
    np.testing.assert_array_equal(arrays["x"], np.zeros((2, 3)))
    with pytest.raises(ValueError, match="holds a 'Agent'"):
        read(tmp_path / "file", "OfflinePolicyEstimator")


def test_pickles_are_small_and_exact(tmp_path):
    policy = OfflinePolicyEstimator(random_state=0).fit(make_log(["a", "b"]))
    data = pickle.dumps(policy)
    assert len(data) < 5000  # the network, a megabyte, stays outside
    assert_same(pickle.loads(data), policy)
    file = io.BytesIO()
    joblib.dump(policy, file)
    file.seek(0)
    assert_same(joblib.load(file), policy)
    assert_same(copy.deepcopy(policy), policy)


def test_joblib_workers_agree():
    log = make_log(["a", "b"])
    policies = [OfflinePolicyEstimator(g, random_state=0) for g in (0.5, 0.9)]
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
        fitted = joblib.Parallel()(joblib.delayed(p.fit)(log) for p in policies)
    with joblib.parallel_config("threading", n_jobs=8):
        threads = joblib.Parallel()(joblib.delayed(p.fit)(log) for p in policies * 8)
    for i, policy in enumerate(fitted):
        assert_same(policy, policies[i].fit(log))
    for i, policy in enumerate(threads):
        assert_same(policy, policies[i % 2])
