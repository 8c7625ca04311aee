import copy
import datetime as dt
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
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
from tabrl._files import replacing
from tabrl._persistence import _checksum, read, restore_generator, write

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
    # Asked for all, both have made again what no file holds.
    assert vars(loaded).keys() == vars(policy).keys()


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


def saved(tmp_path: Path, change, **parameters) -> Path:
    """Save a policy after a change of its content and arrays."""
    path = tmp_path / "policy"
    OfflinePolicyEstimator(**parameters).fit(make_log([(0,), (1,)])).save(path)
    arrays = {
        name: array.copy() for name, array in load_arrays(path.read_bytes()).items()
    }
    content = json.loads(arrays["json"].tobytes())
    change(content, arrays)
    arrays["json"] = np.frombuffer(json.dumps(content).encode(), np.uint8)
    del arrays["crc32"]
    arrays["crc32"] = _checksum(arrays)  # what is wrong must be found without it
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
    "huge dtype": lambda c, a: c["labels"].update(states_=f"M8[{10**30}s]"),
    "huge date": lambda c, a: c["labels"].update(states_=[{"M8[s]": 10**30}] * 2),
    "long date": lambda c, a: c["labels"].update(states_=[{"date": "9" * 99}] * 2),
    "two in one": lambda c, a: c["labels"].update(states_=[{"a": 1, "b": 2}] * 2),
    "gamma": lambda c, a: c["meta"]["parameters"].update(gamma=10**400),
    "gamma one": lambda c, a: c["meta"]["parameters"].update(gamma=1.0),
    "range": lambda c, a: c["meta"]["parameters"].update(reward_range=[1, 10**400]),
    "range text": lambda c, a: c["meta"]["parameters"].update(reward_range="12"),
    "device": lambda c, a: c["meta"]["parameters"].update(device=3),
    "checkpoint": lambda c, a: c["meta"]["parameters"].update(checkpoint=None),
    "handle_unknown": lambda c, a: c["meta"]["parameters"].update(handle_unknown=1),
    "random_state": lambda c, a: c["meta"]["parameters"].update(random_state=-1),
    "random huge": lambda c, a: c["meta"]["parameters"].update(random_state=10**400),
    "meta": lambda content, arrays: content.update(meta=[1, 2]),
    "two dimensions": lambda c, a: a.update(pair_state=a["pair_state"][:, None]),
    "floats for codes": lambda c, a: a.update(pair_state=a["pair_state"] * 1.0),
    "ints for counts": lambda c, a: a.update(n=a["n"].astype(np.int64)),
    "no count": fill("n", 0.0),
    "nan": fill("reward_sum", np.nan),
    "endless": fill("_values", np.inf),
    "greedy floats": lambda c, a: a.update(_greedy=a["_greedy"] * 1.0),
    "twice": fill("edge_next", 0),
    "terminated": fill("n_terminated", 1e9),
    "greedy": fill("_greedy", 2),
    "negative": fill("_greedy", -1),
    "pair": fill("pair_state", 10**9),
    "edge": fill("edge_pair", -1),
    **{name: shorten(name) for name in ("n", "edge_count", "_values", "_greedy")},
}


@pytest.mark.parametrize("how", DAMAGED)
def test_damaged_file(how, tmp_path):
    path = saved(tmp_path, DAMAGED[how])
    with pytest.raises(ValueError, match="must be a file written by Offline"):
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


# What a file must never do


def crc(content, arrays):
    """Nothing: `saved` mends the checksum."""


def state_of(change):
    """Change the packed random state of a file."""

    def apply(content, arrays):
        packed = content["meta"]["parameters"]["random_state"]
        change(packed)

    return apply


@pytest.mark.parametrize(
    "change",
    [
        lambda packed: packed.__setitem__(2, 625),
        lambda packed: packed.__setitem__(2, -1),
        lambda packed: packed.__setitem__(2, 10**6),
        lambda packed: packed.__setitem__(2, 1.0),
        lambda packed: packed.__setitem__(2, 10**30),
        lambda packed: packed[1].pop(),
        lambda packed: packed[1].__setitem__(0, 2**32),
        lambda packed: packed[1].__setitem__(0, -1),
        lambda packed: packed[1].__setitem__(0, [1]),
        lambda packed: packed.__setitem__(1, "x" * 624),
        lambda packed: packed.__setitem__(0, "PCG64"),
        lambda packed: packed.__setitem__(3, 2),
        lambda packed: packed.__setitem__(4, float("nan")),
        lambda packed: packed.clear(),
    ],
)
def test_random_state_out_of_bounds(change, tmp_path):
    """numpy reads beyond the state at such a position, and may crash."""
    path = saved(tmp_path, state_of(change), random_state=np.random.RandomState(0))
    with pytest.raises(ValueError, match=r"must be a file written by Offline"):
        OfflinePolicyEstimator.load(path)


def test_random_state_of_another_generator_is_refused(tmp_path):
    state = np.random.RandomState(np.random.PCG64(0))
    policy = OfflinePolicyEstimator(random_state=state).fit(make_log([0, 1]))
    with pytest.raises(TypeError, match="RandomState of MT19937"):
        policy.save(tmp_path / "policy")


def generator_state(**changes):
    state = np.random.default_rng(0).bit_generator.state
    inner = {key: changes.pop(key) for key in ("state", "inc") if key in changes}
    return {**state, **changes, "state": {**state["state"], **inner}}


def test_generator_comes_back():
    rng = np.random.default_rng(3)
    rng.random(5)
    rng.integers(2**31, dtype=np.int32)  # leaves half of a word
    again = restore_generator(rng.bit_generator.state)
    np.testing.assert_array_equal(again.random(9), rng.random(9))


@pytest.mark.parametrize(
    "changes",
    [
        {"bit_generator": "MT19937"},
        {"state": -1},
        {"state": 2**128},
        {"state": 1.0},
        {"inc": 2},
        {"inc": "1"},
        {"has_uint32": 2},
        {"uinteger": 2**32},
        {"uinteger": True},
    ],
)
def test_generator_out_of_bounds(changes):
    with pytest.raises(ValueError, match="must be"):
        restore_generator(generator_state(**changes))


@pytest.mark.parametrize("value", [0, -1, True, "2", None, 2.0, 10**400])
def test_formats_that_never_were(value, tmp_path):
    path = saved(tmp_path, lambda c, _: c.update(format=value))
    match = "is of format" if value == 10**400 else "must be a file written by"
    with pytest.raises(ValueError, match=match):
        OfflinePolicyEstimator.load(path)


def test_a_file_without_a_checksum_is_refused(tmp_path):
    path = saved(tmp_path, lambda c, _: c.update(format=1))
    with pytest.raises(ValueError, match=r"format 1.* no checksum\. Fit and save"):
        OfflinePolicyEstimator.load(path)


def test_every_flipped_bit_is_found(tmp_path):
    """A change is refused, or it was of blanks that mean nothing."""
    path = saved(tmp_path, crc)
    before, whole = OfflinePolicyEstimator.load(path), path.read_bytes()
    answers = before.predict_proba(before.states_), before._values, before.get_params()
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.choice(8 * len(whole), 300, replace=False):
        data = bytearray(whole)
        data[position // 8] ^= 1 << (position % 8)
        path.write_bytes(data)
        try:
            after = OfflinePolicyEstimator.load(path)
        except ValueError:
            refused += 1
            continue
        np.testing.assert_array_equal(after._values, answers[1])
        np.testing.assert_array_equal(after.predict_proba(after.states_), answers[0])
        assert after.get_params() == answers[2]
    assert refused > 290


def test_every_truncation_is_found(tmp_path):
    path = saved(tmp_path, crc)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="must be a file written by"):
            OfflinePolicyEstimator.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="must be a file written by"):
        OfflinePolicyEstimator.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name, found in (("pipe", "a pipe"), ("link", "a device")):
        with pytest.raises(ValueError, match=f"regular file. Found {found}"):
            OfflinePolicyEstimator.load(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        OfflinePolicyEstimator.load(tmp_path)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**42)  # sparse
    with pytest.raises(ValueError, match=r"at most \d+ bytes. Found 4398046511104"):
        OfflinePolicyEstimator.load(tmp_path / "huge")


def test_a_link_is_followed(tmp_path):
    policy = OfflinePolicyEstimator(random_state=0).fit(make_log([0, 1]))
    (tmp_path / "store").mkdir()
    for target in ("old", "new"):  # one that is there, one that is not
        link = tmp_path / f"link to {target}"
        link.symlink_to(tmp_path / "store" / target)
        if target == "old":
            (tmp_path / "store" / target).write_text("what was there")
        policy.save(link)
        assert link.is_symlink()
        assert_same(OfflinePolicyEstimator.load(link), policy)
    assert len(list((tmp_path / "store").iterdir())) == 2
    with pytest.raises(IsADirectoryError):
        policy.save(tmp_path / "store")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_written_through(tmp_path):
    policy = OfflinePolicyEstimator(random_state=0).fit(make_log([0, 1]))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(pipe.read_bytes)
        policy.save(pipe)
        (tmp_path / "copy").write_bytes(reader.result(timeout=20))
    assert pipe.is_fifo()
    assert_same(OfflinePolicyEstimator.load(tmp_path / "copy"), policy)


def test_threads_that_save_to_one_path(tmp_path):
    policies = [
        OfflinePolicyEstimator(gamma, random_state=0).fit(make_log([0, 1]))
        for gamma in (0.1, 0.5)
    ]
    path = tmp_path / "policy"
    with ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(policies[i % 2].save, path) for i in range(300)]
        for job in jobs:
            job.result()
            assert OfflinePolicyEstimator.load(path).gamma in (0.1, 0.5)
    assert [file.name for file in tmp_path.iterdir()] == ["policy"]


@pytest.mark.parametrize("named", [False, True])
def test_a_failure_leaves_no_temporary_file(named, tmp_path, monkeypatch):
    if named:  # as where the system has no files without names
        monkeypatch.setattr("tabrl._files._nameless", lambda _: None)
    (tmp_path / "file").write_text("what was there")

    def fail():
        with replacing(tmp_path / "file") as file:
            file.write(b"half")
            file.flush()
            raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        fail()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["what was there"]
    with replacing(tmp_path / "file") as file:
        file.write(b"whole")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="needs files without names")
def test_a_killed_process_leaves_no_temporary_file(tmp_path):
    code = (
        "import os, signal; from tabrl._files import replacing\n"
        "with replacing('file') as file:\n"
        "    file.write(b'half'); file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    env = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env)
    assert done.returncode == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


def test_deep_nesting_is_damage(tmp_path):
    arrays = {"json": np.frombuffer(b"[" * 10**5, np.uint8)}
    (tmp_path / "policy").write_bytes(save_arrays(arrays))
    with pytest.raises(ValueError, match="must be a file written by"):
        OfflinePolicyEstimator.load(tmp_path / "policy")
