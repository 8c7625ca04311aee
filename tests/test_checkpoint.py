import hashlib
import json
import os
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.exceptions import NotFittedError

from tabrl import CheckpointError, OfflinePolicyEstimator, _checkpoint
from tabrl._checkpoint import (
    BUNDLED,
    fetch_checkpoint,
    load_network,
    read_config,
    save_network,
)
from tabrl._network import Network, NetworkConfig

CPU = torch.device("cpu")
LOG = {
    "state": ["shop", "shop", "road"] * 20,
    "action": ["wait", "walk", "walk"] * 20,
    "reward": [0.0, -1.0, 5.0] * 20,
    "next_state": ["shop", "road", "home"] * 20,
    "terminated": [False, False, True] * 20,
}


def make_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint that no other test has, small and quick."""
    torch.manual_seed(seed)
    network = Network(NetworkConfig(width=8, n_layers=1, n_heads=2, mlp_ratio=1))
    save_network(network, folder, {"license": "BSD-3-Clause"})
    return folder


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(config))


def replace_weights(folder: Path, weights: bytes) -> None:
    """Replace the weights, and make the config vouch for them."""
    (folder / "model.safetensors").write_bytes(weights)
    edit_config(folder, sha256=hashlib.sha256(weights).hexdigest())


def edit_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load((folder / "model.safetensors").read_bytes())
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    replace_weights(folder, save(tensors))


def retyped(folder: Path, dtype: str) -> bytes:
    """Return weights with one more tensor, of a type that few readers know."""
    weights = (folder / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(weights[:8], "little")
    header, data = json.loads(weights[8:end]), weights[end:]
    span = [len(data), len(data) + 8]
    shape = [16 if dtype == "F4" else 8]
    header["odd"] = {"dtype": dtype, "shape": shape, "data_offsets": span}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data + bytes(8)


def damage(folder: Path) -> None:
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)


def truncate(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


class Bomb:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return open, ("exploded", "w")


def put_pickle(folder: Path) -> None:
    state = load((folder / "model.safetensors").read_bytes())
    replace_weights(folder, pickle.dumps([Bomb(), state]))


def resize(folder: Path, **sizes: object) -> None:
    network = json.loads((folder / "config.json").read_text())["network"] | sizes
    edit_config(folder, network=network)


def write_config(text: str):
    return lambda folder: (folder / "config.json").write_text(text)


# What was done to a checkpoint, and what the error says of it: first of the config,
# then of the weights.
BROKEN_CONFIG = {
    "no json": (write_config("{"), "must be a JSON file"),
    "no text": (
        lambda f: (f / "config.json").write_bytes(b"\xff\0"),
        "must be a JSON file",
    ),
    "deep json": (write_config("[" * 100_000), "must be a JSON file"),
    "huge json": (write_config(" " * 2**21), "at most 1048576 bytes"),
    "list": (write_config("[1]"), "number 'format'"),
    "format text": (lambda f: edit_config(f, format="1"), "number 'format'"),
    "format zero": (lambda f: edit_config(f, format=0), "must be of format 1"),
    "other architecture": (lambda f: edit_config(f, architecture="gpt"), "'gpt'"),
    "no sha256": (lambda f: edit_config(f, sha256=None), "give the sha256"),
    "no sizes": (lambda f: edit_config(f, network=None), "in 'network'"),
    "unknown size": (lambda f: resize(f, depth=1), "in 'network'"),
    "text size": (lambda f: resize(f, width="8"), "in 'network'"),
    "float size": (lambda f: resize(f, width=8.0), "in 'network'"),
    "true size": (lambda f: resize(f, n_layers=True), "in 'network'"),
    "negative size": (lambda f: resize(f, width=-8), "in 'network'"),
    "endless size": (lambda f: resize(f, width=10**400), "in 'network'"),
    "heads": (lambda f: resize(f, n_heads=3), "dividing width"),
    "one optimism": (lambda f: edit_config(f, optimism=[1.0]), "in 'optimism'"),
    "text optimism": (lambda f: edit_config(f, optimism=["1", 0]), "in 'optimism'"),
    "no pair": (lambda f: edit_config(f, optimism=2.0), "in 'optimism'"),
    "endless optimism": (
        lambda f: edit_config(f, optimism=[float("inf"), 0.0]),
        "in 'optimism'",
    ),
}
BROKEN_WEIGHTS = {
    "huge": (lambda f: resize(f, width=4096, n_layers=64), r"size that config\.json"),
    "wider": (lambda f: resize(f, width=16), "tensors of the network"),
    "damaged": (damage, "must have the sha256"),
    "truncated": (truncate, "must have the sha256"),
    "pickle": (put_pickle, "must be a safetensors file"),
    "unknown type": (
        lambda f: replace_weights(f, retyped(f, "F4")),
        "safetensors file of float32",
    ),
    "unknown exponents": (
        lambda f: replace_weights(f, retyped(f, "F8_E8M0")),
        "must (be a safetensors file|hold)",
    ),
    "missing tensor": (
        lambda f: edit_tensors(f, embed_pair__bias=None),
        r"1 missing, for example 'embed_pair\.bias'",
    ),
    "extra tensor": (
        lambda f: edit_tensors(f, extra=torch.ones(1)),
        "1 unknown, for example 'extra'",
    ),
    "other shape": (
        lambda f: edit_tensors(f, embed_pair__bias=torch.ones(9)),
        r"1 of another shape, for example 'embed_pair\.bias'",
    ),
    "float64": (
        lambda f: edit_tensors(f, embed_pair__bias=torch.ones(8).double()),
        "of type float32",
    ),
    "not finite": (
        lambda f: edit_tensors(f, embed_pair__bias=torch.full((8,), torch.nan)),
        "finite numbers",
    ),
}
BROKEN = BROKEN_CONFIG | BROKEN_WEIGHTS


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(_checkpoint, "_loaded", {})
    monkeypatch.setattr(_checkpoint, "_commits", {})


def test_all_share_one_network():
    first = load_network("auto", CPU)
    assert all(load_network(name, CPU) is first for name in ("auto", str(BUNDLED)))
    assert load_network(BUNDLED / "model.safetensors", CPU) is first
    assert load_network(BUNDLED / "config.json", torch.device("cpu")) is first
    for i in range(100):
        OfflinePolicyEstimator(random_state=i).fit(LOG)
    assert list(_checkpoint._loaded.values()) == [first]
    assert not first.training
    assert not any(p.requires_grad for p in first.parameters())


def test_dtypes_are_apart():
    double = load_network("auto", CPU, torch.float64)
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    single = load_network("auto", CPU)
    assert {p.dtype for p in single.parameters()} == {torch.float32}


def test_loads_from_a_folder_or_a_renamed_file(tmp_path):
    folder = make_checkpoint(tmp_path / "mine")
    network = load_network(folder, CPU)
    (folder / "model.safetensors").rename(folder / "v1.safetensors")
    _checkpoint._loaded.clear()
    again = load_network(folder / "v1.safetensors", CPU)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    policy = OfflinePolicyEstimator(checkpoint=folder / "v1.safetensors").fit(LOG)
    assert policy.predict(["road"]).tolist() == ["walk"]


def test_32_threads_build_one_network(tmp_path, monkeypatch):
    folder = make_checkpoint(tmp_path)
    built = []
    real = _checkpoint._build
    monkeypatch.setattr(
        _checkpoint, "_build", lambda *args: built.append(1) or real(*args)
    )
    start = threading.Barrier(32)

    def work(_):
        start.wait()
        return load_network(folder, CPU)

    with ThreadPoolExecutor(32) as pool:
        networks = set(pool.map(work, range(32)))
    assert len(networks) == len(built) == 1


def test_loading_draws_no_random_numbers(tmp_path):
    folder = make_checkpoint(tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_network(folder, CPU)
    assert torch.rand(1) == expected


@pytest.mark.parametrize("how", BROKEN)
def test_broken_checkpoint_is_refused(how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_checkpoint(tmp_path / "mine")
    change, message = BROKEN[how]
    change(folder)
    for ask in (fetch_checkpoint, lambda f: load_network(f, CPU)):
        with pytest.raises(CheckpointError, match=message) as caught:
            ask(folder)
        assert type(caught.value) is CheckpointError
        assert str(folder) in str(caught.value)
        assert "'auto'" in str(caught.value)
        assert len(str(caught.value)) < 1000
    assert not _checkpoint._loaded
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    "sizes",
    [
        {"width": 4096, "n_layers": 64, "mlp_ratio": 16, "n_heads": 64},
        {"width": 10**9},
        {"n_layers": 10**9},
        {"width": 4096},
    ],
)
def test_hostile_sizes_build_nothing(sizes, tmp_path, monkeypatch):
    folder = make_checkpoint(tmp_path)
    resize(folder, **sizes)
    monkeypatch.setattr(_checkpoint, "Network", lambda _: pytest.fail("was built"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_network(folder, CPU)


def test_huge_weights_are_not_read(tmp_path, monkeypatch):
    folder = make_checkpoint(tmp_path)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(2**40)  # sparse
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("was read"))
    with pytest.raises(CheckpointError, match="Got 1099511627776 bytes"):
        load_network(folder, CPU)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_pipes_and_devices_are_not_read(file, tmp_path):
    folder = make_checkpoint(tmp_path)
    (folder / file).unlink()
    os.mkfifo(folder / file)
    with pytest.raises(CheckpointError, match=re.escape(file)):
        load_network(folder, CPU)
    (folder / file).unlink()
    (folder / file).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=re.escape(file)):
        load_network(folder, CPU)


def test_weights_that_lead_to_no_numbers_leave_nothing_fitted(tmp_path):
    """Finite weights: what they lead to is refused, or finite too."""
    folder = make_checkpoint(tmp_path)
    tensors = load((folder / "model.safetensors").read_bytes())
    refused = 0
    for name, tensor in tensors.items():
        extreme = torch.full_like(tensor, 3e38)
        replace_weights(folder, save({**tensors, name: extreme}))
        policy = OfflinePolicyEstimator(checkpoint=folder)
        method = policy.fit if refused % 2 else policy.partial_fit
        try:
            method(LOG)
        except CheckpointError as error:
            assert "must give finite values" in str(error)  # noqa: PT017
            refused += 1
            with pytest.raises(NotFittedError):
                policy.predict(["road"])
        else:
            assert np.isfinite(policy.predict_proba(policy.states_)).all()
            assert np.isfinite(policy.action_values(policy.states_)).all()
    assert refused > len(tensors) / 4


def test_newer_format_names_the_version_that_reads_it(tmp_path):
    folder = make_checkpoint(tmp_path)
    edit_config(folder, format=7, tabrl=">=3.1")
    with pytest.raises(CheckpointError, match=r"format 7.*'tabrl>=3\.1'"):
        load_network(folder, CPU)
    edit_config(folder, tabrl="'; rm -rf ~")
    with pytest.raises(CheckpointError, match=r"pip install -U 'tabrl'\."):
        load_network(folder, CPU)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nowhere",
        "a/b/c",
        "./a",
        "../a",
        "/etc/shadow",
        "org/..",
        "org/name@../../x",
        "org/name@a/../../x",
        "org/na..me",
        "org/name@",
        "org/na me",
        "https://huggingface.co/org/name",
        "org/name\n",
    ],
)
def test_names_that_are_no_checkpoint(name, monkeypatch):
    monkeypatch.setattr(
        _checkpoint._Repository, "path", lambda *_: pytest.fail("asked the Hub")
    )
    with pytest.raises(CheckpointError, match="checkpoint must be"):
        load_network(name, CPU)


def test_other_files_and_types_are_no_checkpoint(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="another file"):
        load_network(tmp_path / "model.pt", CPU)
    with pytest.raises(CheckpointError, match=r"config\.json must be a readable"):
        load_network(tmp_path, CPU)
    with pytest.raises(TypeError, match=r"string or a path\. Got 3"):
        load_network(3, CPU)


def test_missing_weights(tmp_path):
    folder = make_checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors must be a readable"):
        load_network(folder, CPU)


def test_bundled_config_tells_its_origin():
    config = read_config()
    assert config["license"] == "BSD-3-Clause"
    assert config["training"]["steps"] > 0
    assert BUNDLED.joinpath("config.json").stat().st_size < 100_000


def test_a_failed_fit_leaves_the_estimator(tmp_path):
    policy = OfflinePolicyEstimator(random_state=0).fit(LOG)
    before = policy.predict_proba(["shop"])
    policy.checkpoint = str(tmp_path / "gone" / "away")
    with pytest.raises(CheckpointError):
        policy.fit(LOG)
    np.testing.assert_array_equal(policy.predict_proba(["shop"]), before)


def run_python(code: str, **env: str) -> str:
    """Run code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()} | env,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_START = """
import json, sys, time
began = time.perf_counter()
import torch
import sklearn.base, sklearn.utils, sklearn.utils.validation
import sklearn.utils.metadata_routing
others = time.perf_counter()
events = []
sys.addaudithook(lambda name, args: events.append((name, str(args[:1])[2:-3]))
    if name == "open" or name.startswith("socket.") else None)
import tabrl
tabrl_too = time.perf_counter()
imported, events[:] = list(events), []
modules = list(sys.modules)

def no_network(name, args):
    if name.startswith("socket."):
        raise RuntimeError(f"{name} {args}")

sys.addaudithook(no_network)
times = []
for _ in range(5):
    start = time.perf_counter()
    policy = tabrl.OfflinePolicyEstimator(gamma=0.9, random_state=0).fit(LOG)
    times.append(time.perf_counter() - start)
print(json.dumps(dict(
    others=others - began, both=tabrl_too - began, imported=imported,
    times=times, fit=events, modules=modules, answer=policy.predict(["road"]).tolist(),
)))
"""


@pytest.fixture(scope="module")
def starts():
    """Return what three fresh processes report of import and first fits."""
    code = f"LOG = {LOG!r}\n{_START}"
    return [json.loads(run_python(code)) for _ in range(3)]


def test_import_costs_little_beside_torch_and_scikit_learn(starts):
    ratios = [start["both"] / start["others"] for start in starts]
    assert statistics.median(ratios) < 1.15, ratios


def test_import_opens_no_socket_and_no_file_but_code(starts):
    code = [Path(_checkpoint.__file__).parent, Path(torch.__file__).parents[1]]
    code.append(Path(os.__file__).parent)
    for name, file in starts[0]["imported"]:
        assert name == "open"
        assert any(folder in Path(file).parents for folder in code), file
    optional = {"huggingface_hub", "matplotlib", "minari"}
    assert not optional & set(starts[0]["modules"])


def test_first_fit_costs_little_more(starts):
    extra = [s["times"][0] - statistics.median(s["times"][1:]) for s in starts]
    assert statistics.median(extra) < 0.5, extra


def test_main_job_with_every_socket_blocked(starts):
    for start in starts:
        assert start["answer"] == ["walk"]
        files = {Path(file).parent for _, file in start["fit"] if "json" in file}
        assert files == {BUNDLED}


def test_copied_package_data_is_enough(tmp_path):
    shutil.copytree(BUNDLED, tmp_path / "copy")
    assert fetch_checkpoint(tmp_path / "copy") == tmp_path / "copy"


# The config is parsed once


def test_the_config_is_parsed_once_and_anew_once_it_changes(tmp_path, monkeypatch):
    folder = make_checkpoint(tmp_path / "checkpoint")
    path, parsed = folder / "config.json", []
    parse = _checkpoint._parse_config
    monkeypatch.setattr(
        _checkpoint, "_parse_config", lambda path: parsed.append(path) or parse(path)
    )

    def licence():
        load_network(folder, CPU)
        return read_config(folder)["license"]

    # Just written: the next change might show the same time and size.
    assert [licence(), len(parsed)] == ["BSD-3-Clause", 2]
    monkeypatch.setattr(_checkpoint, "_SETTLED", -1.0)
    assert [licence(), len(parsed)] == ["BSD-3-Clause", 3]
    read_config(folder)["license"] = "changed by its reader"
    assert [licence(), len(parsed)] == ["BSD-3-Clause", 3]
    before = path.stat()
    edit_config(folder, license="GPL-3-Clause")  # of the same length
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert [licence(), len(parsed)] == ["GPL-3-Clause", 4]
    edit_config(folder, sha256=0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 2))
    for _ in range(2):  # what is wrong is never kept
        with pytest.raises(CheckpointError, match="sha256"):
            load_network(folder, CPU)
    path.unlink()
    with pytest.raises(CheckpointError, match="readable"):
        load_network(folder, CPU)
