"""The client of huggingface_hub against a small Hub on the loopback interface."""

import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, file_download
from test_checkpoint import (
    BROKEN,
    BROKEN_CONFIG,
    CPU,
    LOG,
    edit_config,
    make_checkpoint,
    run_python,
)

from pretraining.recipe import export
from tabrl import CheckpointError, OfflinePolicyEstimator, _checkpoint
from tabrl._checkpoint import fetch_checkpoint, load_network, read_config
from tabrl._network import Network, NetworkConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class Hub(ThreadingHTTPServer):
    """What the client needs of the Hub: files by commit, LFS, redirects, pushes."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.refs: dict[tuple[str, str], str] = {}
        self.blobs: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}  # old names of repositories
        self.status: dict[str, tuple[int, str]] = {}  # errors by repository
        self.cut: list[str] = []  # "once", "short" or "stop": for the next weights
        self.stopped, self.go_on = threading.Event(), threading.Event()
        self.seen: list[tuple[str, str, dict]] = []

    def publish(self, name: str, folder: Path, *refs: str) -> str:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        return self.commit(name, files, *refs)

    def commit(self, name: str, files: dict[str, bytes], *refs: str) -> str:
        digest = hashlib.sha1(repr(sorted(files.items())).encode())
        commit = digest.hexdigest()
        self.commits[name, commit] = files
        for ref in (commit, "main", *refs):
            self.refs[name, ref] = commit
        self.blobs |= {hashlib.sha256(b).hexdigest(): b for b in files.values()}
        return commit

    def paths(self, method: str = "GET") -> list[str]:
        return [path for m, path, _ in self.seen if m == method]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args):
        pass

    def answer(self, status=200, body=b"", headers=None, length=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, content, status=200):
        body = json.dumps(content).encode()
        self.answer(status, body, {"Content-Type": "application/json"})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_GET(self):
        hub = self.server
        if self.path == "/api/agent-harnesses":  # the client's own curiosity
            return self.answer(404)
        hub.seen.append((self.command, self.path, dict(self.headers)))
        if match := re.fullmatch(r"/lfs/(\w{64})", self.path):
            return self.send_blob(hub.blobs[match[1]])
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if not match:
            return self.answer(404)
        name, revision, file = match.groups()
        if name in hub.moved:
            location = self.path.replace(name, hub.moved[name], 1)
            return self.answer(307, headers={"Location": location})
        if name in hub.status:
            status, code = hub.status[name]
            return self.answer(status, headers={"X-Error-Code": code} if code else {})
        if (name, "main") not in hub.refs:
            return self.answer(404, headers={"X-Error-Code": "RepoNotFound"})
        commit = hub.refs.get((name, revision.replace("%2F", "/")))
        if commit is None:
            return self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        content = hub.commits[name, commit].get(file)
        headers = {"X-Repo-Commit": commit}
        if content is None:
            headers["X-Error-Code"] = "EntryNotFound"
            return self.answer(404, headers=headers)
        if not file.endswith(".safetensors"):
            headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(200, content, headers)
        digest = hashlib.sha256(content).hexdigest()
        headers |= {
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(content)),
            # Another host, as the storage of the Hub is: no token must go there.
            "Location": f"http://localhost:{hub.server_port}/lfs/{digest}",
        }
        return self.answer(302, headers=headers)

    do_HEAD = do_GET

    def send_blob(self, content: bytes):
        hub, start = self.server, 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
            end = len(content) - 1
            ranges = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
        else:
            ranges = {}
        rest, status = content[start:], 206 if ranges else 200
        cut = hub.cut.pop(0) if hub.cut and self.command == "GET" else None
        if cut is None:
            return self.answer(status, rest, ranges)
        half = rest[: len(rest) // 2]
        if cut == "short":
            return self.answer(status, half, ranges)
        with contextlib.suppress(OSError):  # a client that was killed
            self.answer(status, half, ranges, length=len(rest))
            self.wfile.flush()
        if cut == "stop":
            hub.stopped.set()
            hub.go_on.wait(60)
        self.close_connection = True

    def do_POST(self):
        hub, body = self.server, self.body()
        hub.seen.append((self.command, self.path, dict(self.headers)))
        if self.path == "/api/validate-yaml":
            assert "license: bsd-3-clause" in json.loads(body)["content"]
            return self.json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != "Bearer secret":
            return self.answer(401)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            return self.json({"url": f"{hub.url}/{asked['organization']}/new"})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for item in objects:
                href = f"{hub.url}/upload/{item['oid']}"
                item["actions"] = {"upload": {"href": href}}
            return self.json({"transfer": "basic", "objects": objects})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/main", self.path)
        if match[2] == "preupload":
            files = json.loads(body)["files"]
            for file in files:
                lfs = file["path"].endswith(".safetensors")
                file |= {"uploadMode": "lfs" if lfs else "regular"}
                file["shouldIgnore"] = False
            return self.json({"files": files})
        assert match[2] == "commit"
        files = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = hub.blobs[value["oid"]]
        commit = hub.commit(match[1], files)
        return self.json({"commitUrl": f"{hub.url}/c/{commit}", "commitOid": commit})

    def do_PUT(self):
        body = self.body()
        self.server.blobs[hashlib.sha256(body).hexdigest()] = body
        self.answer(200)


def talk_to(url: str, monkeypatch) -> None:
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):  # older clients copy the constant
        monkeypatch.setattr(
            module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
        )


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Start a Hub that this process talks to, with a cache of its own."""
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    talk_to(server.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name, value in (  # unknown to older clients
        ("HF_HUB_DISABLE_XET", True),  # a protocol that is not spoken here
        ("AGENT_HARNESSES_PATH", str(tmp_path / "agents")),
    ):
        monkeypatch.setattr(constants, name, value, raising=False)
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(_checkpoint, "_loaded", {})
    monkeypatch.setattr(_checkpoint, "_commits", {})
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def mine(tmp_path):
    return make_checkpoint(tmp_path / "mine")


def forget() -> None:
    """Be as a process that has just started."""
    _checkpoint._loaded.clear()
    _checkpoint._commits.clear()


def cached(tmp_path: Path) -> set[str]:
    """Return the names of the files in the cache, of which some may be links."""
    folder = tmp_path / "home" / "hub"
    return {p.name for p in folder.glob("models--*/snapshots/*/*")} | {
        p.name for p in folder.glob("models--*/blobs/*")
    }


def error_of(name: str, tmp_path: Path, file: str, **options: object) -> str:
    """Return the one message, after checking what every message names."""
    with pytest.raises(CheckpointError) as caught:
        fetch_checkpoint(name, **options)
    message = str(caught.value)
    repository, _, revision = name.partition("@")
    for part in (repository, file, revision or "main", 'checkpoint="auto"'):
        assert part in message
    assert f"Cache folder: {tmp_path / 'home' / 'hub'}." in message
    assert "\n" not in message
    return message


def test_download_then_no_more_network(hub, mine, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    commit = hub.publish("org/name", mine)
    policy = OfflinePolicyEstimator(0.9, checkpoint="org/name").fit(LOG)
    expected = OfflinePolicyEstimator(0.9, checkpoint=mine).fit(LOG)
    assert (policy.predict_proba(["shop"]) == expected.predict_proba(["shop"])).all()
    folder = fetch_checkpoint("org/name")
    assert folder.name == commit
    assert (folder / WEIGHTS).read_bytes() == (mine / WEIGHTS).read_bytes()

    # The token goes to the Hub and to no other host.
    for _, path, headers in hub.seen:
        sent = {name.lower(): value for name, value in headers.items()}
        assert ("authorization" in sent) == (not path.startswith("/lfs/"))
        assert "tabrl" in sent["user-agent"]

    hub.seen.clear()
    load_network("org/name", CPU)
    OfflinePolicyEstimator(0.9, checkpoint="org/name").fit(LOG)
    assert not hub.seen


def test_revisions(hub, tmp_path):
    for version in (1, 2):
        made = make_checkpoint(tmp_path / str(version), seed=version)
        commit = hub.publish("org/name", made, f"v{version}", f"refs/pr/{version}")
        expected = read_config(made)["sha256"]
        for revision in (f"v{version}", f"refs/pr/{version}", commit):
            assert read_config(f"org/name@{revision}")["sha256"] == expected
    assert read_config("org/name")["sha256"] == expected
    assert read_config("org/name@v1")["sha256"] != expected


def test_all_files_are_of_one_commit(hub, tmp_path, monkeypatch):
    old, new = (
        make_checkpoint(tmp_path / name, seed=len(name)) for name in "a bb".split()
    )
    hub.publish("org/name", old)
    real = _checkpoint._read_config

    def read_and_publish(path):
        hub.publish("org/name", new)
        return real(path)

    monkeypatch.setattr(_checkpoint, "_read_config", read_and_publish)
    folder = fetch_checkpoint("org/name")
    assert (folder / WEIGHTS).read_bytes() == (old / WEIGHTS).read_bytes()


def test_moved_repository(hub, mine):
    hub.publish("new/name", mine)
    hub.moved["old/name"] = "new/name"
    assert read_config("old/name") == read_config(mine)


def test_cached_pin_needs_no_network(hub, mine):
    commit = hub.publish("org/name", mine)
    fetch_checkpoint("org/name")
    forget()
    hub.seen.clear()
    fetch_checkpoint(f"org/name@{commit}")
    assert not hub.seen


@pytest.mark.parametrize("how", ["offline mode", "allow_download", "server gone"])
def test_cached_branch_without_network(how, hub, mine, monkeypatch):
    hub.publish("org/name", mine)
    fetch_checkpoint("org/name")
    forget()
    hub.seen.clear()
    if how == "offline mode":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "server gone":
        talk_to("http://127.0.0.1:9", monkeypatch)
    fetch_checkpoint("org/name", allow_download=how != "allow_download")
    assert not hub.seen


def test_not_cached_and_no_download(hub, mine, tmp_path, monkeypatch):
    hub.publish("org/name", mine)
    message = error_of("org/name@v1", tmp_path, CONFIG, allow_download=False)
    assert "not in the cache" in message
    assert "tabrl download org/name@v1" in message
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in error_of("org/name", tmp_path, CONFIG)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        OfflinePolicyEstimator(checkpoint="org/name").fit(LOG)
    assert not hub.seen


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (401, "", "HF_TOKEN"),
        (401, "RepoNotFound", "none of this name, or it is private"),
        (403, "", "HF_TOKEN"),
        (403, "GatedRepo", "access to it must be granted"),
        (404, "RepoNotFound", "none of this name"),
        (404, "RevisionNotFound", "no such revision"),
        (404, "EntryNotFound", "not a checkpoint of tabrl"),
        (418, "", "418"),
    ],
)
def test_refusals(status, code, says, hub, mine, tmp_path):
    hub.publish("org/name", mine)
    hub.status["org/name"] = (status, code)
    assert says in error_of("org/name", tmp_path, CONFIG)
    assert not cached(tmp_path)
    del hub.status["org/name"]
    fetch_checkpoint("org/name")


def test_what_is_not_there(hub, mine, tmp_path):
    assert "none of this name" in error_of("org/gone", tmp_path, CONFIG)
    (mine / WEIGHTS).unlink()
    hub.publish("org/name", mine)
    assert "no such revision" in error_of("org/name@v9", tmp_path, CONFIG)
    assert f"no '{WEIGHTS}'" in error_of("org/name", tmp_path, WEIGHTS)


def test_unreachable(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client tries again
    talk_to("http://127.0.0.1:9", monkeypatch)
    message = error_of("org/name", tmp_path, CONFIG)
    assert f"the download from {hub.url} failed (" in message
    assert "proxies and HF_ENDPOINT" in message


def test_truncated_body(hub, mine, tmp_path):
    hub.publish("org/name", mine)
    hub.cut = ["short"]
    assert "failed (OSError" in error_of("org/name", tmp_path, WEIGHTS)
    assert WEIGHTS not in cached(tmp_path)
    fetch_checkpoint("org/name")


def test_connection_cut_is_resumed(hub, mine, monkeypatch):
    pytest.importorskip("huggingface_hub", "2.0")  # older clients give up
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1)
    hub.publish("org/name", mine)
    hub.cut = ["once"]
    fetch_checkpoint("org/name")
    half = (mine / WEIGHTS).stat().st_size // 2
    ranges = [h.get("Range", h.get("range")) for _, p, h in hub.seen if "/lfs/" in p]
    assert ranges == [None, f"bytes={half}-"]


@pytest.mark.parametrize("how", BROKEN)
def test_broken_download_is_not_kept(how, hub, mine, tmp_path, monkeypatch):
    good = {path.name: path.read_bytes() for path in mine.iterdir()}
    change, says = BROKEN[how]
    change(mine)
    hub.publish("org/name", mine)
    message = error_of(
        "org/name", tmp_path, CONFIG if how in BROKEN_CONFIG else WEIGHTS
    )
    assert re.search(says, message)
    assert "removed from the cache" in message
    assert not cached(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "not in the cache" in error_of("org/name", tmp_path, CONFIG)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.commit("org/name", good)
    fetch_checkpoint("org/name")


def test_file_damaged_in_the_cache_is_fetched_again(hub, mine, tmp_path):
    commit = hub.publish("org/name", mine)
    weights = (fetch_checkpoint("org/name") / WEIGHTS).resolve()
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    forget()
    assert "sha256" in error_of(f"org/name@{commit}", tmp_path, WEIGHTS)
    fetch_checkpoint(f"org/name@{commit}")


def test_a_fixed_branch_is_found_after_an_error(hub, mine, tmp_path):
    hub.publish("org/name", mine)
    (fetch_checkpoint("org/name") / CONFIG).resolve().write_text("{")
    new = hub.publish("org/name", make_checkpoint(tmp_path / "new", seed=1))
    error_of("org/name", tmp_path, CONFIG)
    assert fetch_checkpoint("org/name").name == new


def test_newer_format_stays_in_the_cache(hub, mine, tmp_path):
    edit_config(mine, format=2, tabrl=">=9")
    hub.publish("org/name", mine)
    with pytest.raises(CheckpointError, match="tabrl>=9"):
        fetch_checkpoint("org/name")
    assert CONFIG in cached(tmp_path)
    assert not any("/lfs/" in path for path in hub.paths())


def test_32_threads_download_once(hub, mine):
    hub.publish("org/name", mine)
    with ThreadPoolExecutor(32) as pool:
        networks = set(pool.map(lambda _: load_network("org/name", CPU), range(32)))
    assert len(networks) == 1
    assert len(hub.paths("HEAD")) == len(hub.paths("GET")) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_8_processes_of_32_threads_download_once(hub, mine, tmp_path):
    hub.publish("org/name", mine)
    code = """
import os, signal, threading, warnings
warnings.simplefilter("ignore")
from concurrent.futures import ThreadPoolExecutor
import torch
from tabrl._checkpoint import _locks, load_network
# As if another thread were just loading it; in a child there is no such thread.
_locks.setdefault("org/name", threading.Lock()).acquire()
children = []
for _ in range(8):
    child = os.fork()
    if not child:
        signal.alarm(60)  # kills a child that waits for ever
        cpu = torch.device("cpu")
        with ThreadPoolExecutor(32) as pool:
            got = set(pool.map(lambda _: load_network("org/name", cpu), range(32)))
        os._exit(len(got))
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""
    # The variables that the client documents are all it takes.
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url}
    assert json.loads(run_python(code, **home)) == [1] * 8
    assert len(hub.paths("GET")) == 2
    fetch_checkpoint("org/name", allow_download=False)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_in_mid_download(hub, mine, tmp_path):
    hub.publish("org/name", mine)
    hub.cut = ["stop"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tabrl", "download", "org/name"],
        env=os.environ
        | {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url}
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        stderr=subprocess.DEVNULL,
    )
    try:
        assert hub.stopped.wait(60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert WEIGHTS not in cached(tmp_path)
    folder = fetch_checkpoint("org/name")
    assert (folder / WEIGHTS).read_bytes() == (mine / WEIGHTS).read_bytes()


def make_run(folder: Path) -> Path:
    """Write what a training run leaves, for a network of no use."""
    config = NetworkConfig(width=8, n_layers=1, n_heads=2, mlp_ratio=1)
    network = Network(config)
    run = {
        "network": vars(config),
        "families": ["graphs", "mazes"],
        "max_states": 100,
        "max_actions": 6,
        "max_log_size": 1e5,
    }
    folder.mkdir()
    average = {name: value + 1 for name, value in network.state_dict().items()}
    state = {"config": json.dumps(run), "average": average}
    torch.save(state, folder / "state.pt")
    manifest = {"config": run, "steps": 12, "hours": 0.5, "commit": "c0ffee"}
    manifest |= {"versions": {"torch": "2.0"}, "hardware": "1 CPU core"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    good, bad = [0.1, 0.05, 0.2], [0.3, 0.25, 0.4]
    cell = {"sampled": good, "greedy": bad, "best_control": bad}
    worse = cell | {"family": "mazes", "size": 16, "sampled": [0.5, 0.4, 0.6]}
    worse["greedy"] = worse["sampled"]
    report = {"n_processes": 64, "overall": cell, "brier_optimal_action": 0.1}
    report["cells"] = [cell | {"family": "graphs", "size": 16}, worse]
    report |= {"below_low": 0.1, "below_middle": 0.5, "below_high": 0.9}
    (folder / "validation.json").write_text(json.dumps(report))
    return folder


def test_export_writes_a_whole_release(tmp_path):
    run, out = make_run(tmp_path / "run"), tmp_path / "out"
    (tmp_path / "figures.md").write_text("Better than chance.\n")
    export.export(run, out, tmp_path / "figures.md")
    network = load_network(out, CPU)
    for name, value in export.averaged_network(run).state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    config = read_config(out)
    assert config["training"]["steps"] == 12
    assert config["tabrl"] == ">=0.1.0"
    card = (out / "README.md").read_text()
    for part in (
        "license: bsd-3-clause",
        "Random graphs:",
        "Mazes:",
        "12 steps, 0.5 hours on 1 CPU core",
        "| graphs | 16 | 0.100 [0.050, 0.200] |",
        "- mazes, logs of 16: regret 0.500 [0.400, 0.600] against 0.300",
        "Better than chance.",
        f"Checkpoint {config['sha256']}",
        "## Licence and citation",
    ):
        assert part in card
    assert "Corridors" not in card
    assert len(card) < 8000


def test_export_without_figures_says_so(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "validation.json").unlink()
    export.export(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Not validated." in card
    assert "Not benchmarked." in card


@pytest.mark.filterwarnings(
    "ignore:Use 'content:DeprecationWarning"
)  # the client's own
def test_push_then_use(hub, tmp_path, monkeypatch, capsys):
    run, out = make_run(tmp_path / "run"), tmp_path / "out"
    monkeypatch.setenv("HF_TOKEN", "secret")
    command = ["export", "--run", str(run), "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*command, "--push-to-hub", "org/new"])
    out.mkdir()
    (out / "private.txt").write_text("not for publication")
    export.main()
    name = capsys.readouterr().out.split()[-1]
    assert re.fullmatch(r"org/new@[0-9a-f]{40}", name)
    files = hub.commits[tuple(name.split("@"))]
    assert set(files) == {CONFIG, "README.md", WEIGHTS}
    assert read_config(name) == read_config(out)
    load_network(name, CPU)


def test_push_of_a_broken_folder_asks_nobody(hub, mine):
    edit_config(mine, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="sha256"):
        export.push_to_hub(mine, "org/new")
    assert not hub.seen


def test_push_without_a_token(hub, mine):
    with pytest.raises(CheckpointError, match=r"'org/new' at .*401.*HF_TOKEN"):
        export.push_to_hub(mine, "org/new")
    assert not hub.commits
