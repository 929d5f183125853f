"""Checks that need no pool: notes of pools, addresses, tokens, options and the code of custom steps."""

import argparse
import dataclasses
import http.server
import importlib
import json
import os
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dali_mix import pipelines
from dali_mix.cli import pools
from dali_mix.cli.commands import serve
from dali_mix.cli.main import main
from dali_mix.loading.chunks import Question
from dali_mix.loading.workers import Spec
from dali_mix.recordio import RecordSet
from dali_mix.service import client as clients
from dali_mix.service import cluster, connect, node, notes, spec
from dali_mix.service.workers import Worker
from tests.loading.sets import png_set
from tests.service.serving import client, free_port

STEP = """
from nvidia.dali import fn
from dali_mix.pipelines import Step
class Turn(Step):
    moves = False
    def graph(self, images, draws, device): return fn.{call}(images)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("DALI_MIX_SERVICE_TOKEN", raising=False)
    return tmp_path / "dali_mix"


@pytest.fixture
def listeners():
    """Yield the addresses of two listening sockets."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        yield [f"127.0.0.1:{listener.getsockname()[1]}" for listener in (one, two)]


# Notes


def test_auto_selects_first_reachable_pool(home, listeners):
    with socket.create_server(("127.0.0.1", 0)) as first:
        address = f"127.0.0.1:{first.getsockname()[1]}"
        for own in (address, *listeners):
            cluster.note_address(own)
        assert cluster.split_address("auto") == cluster.split_address(address)
    assert cluster.split_address("auto") == cluster.split_address(listeners[0])
    cluster.forget_address(listeners[0])
    assert notes.noted(home) == [address, listeners[1]]
    assert cluster.split_address("auto") == cluster.split_address(listeners[1])
    cluster.note_address(listeners[0])
    assert notes.noted(home) == [listeners[1], listeners[0]]
    for own in listeners:
        cluster.forget_address(own)
    assert not (home / notes.NAME).exists()
    cluster.forget_address(listeners[0])


def test_failed_serve_keeps_note_of_other_pool(home, listeners):
    cluster.note_address(listeners[0])
    with pytest.raises(ValueError, match="something listens there already"), node.Node(0, port=_port(listeners[0])):
        pass
    assert notes.noted(home) == [listeners[0]]


@pytest.mark.parametrize("text", ["[1]", "{", "1", '{"pools": [1, {"address": 2}]}', '{"pools": 3}', '"\\ud800"'])
def test_invalid_note_is_ignored_and_replaced(home, text):
    cluster.make_home()
    (home / notes.NAME).write_text(text)
    with pytest.raises(ValueError, match=r"^no pool runs on this machine"):
        cluster.split_address("auto")
    cluster.forget_address("127.0.0.1:1")
    cluster.note_address("127.0.0.1:1")
    assert json.loads((home / notes.NAME).read_text())["pools"][0]["address"] == "127.0.0.1:1"


def test_unwritable_settings_folder_is_refused(monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/none")
    monkeypatch.delenv("DALI_MIX_SERVICE_TOKEN", raising=False)
    with pytest.raises(ValueError, match=r"^/proc/none/dali_mix: cannot be written .*set XDG_CONFIG_HOME"):
        cluster.make_token()


def test_empty_token_is_refused(home):
    cluster.make_home()
    (home / "service_token").write_text("\n")
    with pytest.raises(ValueError, match=rf"^{home}/service_token: the token is empty: copy the one"):
        cluster.find_token()
    with pytest.raises(ValueError, match=rf"^{home}/service_token: the token is empty: remove it"):
        cluster.make_token()


# Addresses


@pytest.mark.parametrize("address", [None, 5, ["auto"], "127.0.0.1:99999", "127.0.0.1:0"])
def test_connect_refuses_invalid_addresses(address):
    with pytest.raises(ValueError, match="is not an address: give HOST:PORT"):
        connect(address)


class _Silent(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_check_pool_refuses_other_servers(home, listeners, monkeypatch):
    cluster.make_token()
    monkeypatch.setattr(cluster, "GREETING", 0.5)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ValueError, match="is not a pool: the server there does not answer as a pool does"):
            cluster.check_pool(*server.server_address)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(ValueError, match=rf"^{listeners[0]} is not a pool: the server there has not answered"):
        cluster.check_pool(*cluster.split_address(listeners[0]))
    with pytest.raises(ValueError, match="is not a pool"), node.Node(0, address=listeners[0]):
        pass
    with pytest.raises(ValueError, match=r"^no pool answers at"):
        cluster.check_pool("127.0.0.1", free_port())


def test_check_pool_accepts_http2_server():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            connection.recv(100)
            connection.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster, "reachable", lambda *_: True)  # would use up the one connection
            cluster.check_pool(*server.getsockname())


@pytest.mark.parametrize("name", ["", "*", "0.0.0.0", "::", "no.such.host.invalid", "192.0.2.7"])
def test_invalid_listen_address_is_refused(name):
    with pytest.raises(ValueError, match=r"^--listen"):
        node.Node(0, listen=name)


def test_localhost_resolves_to_loopback():
    assert cluster.listening("localhost") == "127.0.0.1"
    assert node.Node(0, listen="localhost", port=7).address == "127.0.0.1:7"


def test_wrong_token_error_is_one_sentence():
    said = "File common.pxi in check_status AuthenticationError: InvalidAuthToken: … all nodes of the cluster"
    assert cluster.why_not("a:1", Path("/t"), said) == (
        "a:1: wrong token, or no pool there: the token in /t must be the one of the pool"
    )


# Options of `dali-mix serve`


def test_second_pool_is_announced_by_address(home, listeners, capsys):
    options = argparse.Namespace(workers=1, decode="cpu", join=None, listen=None)
    for address, there in zip(listeners, ("auto", listeners[1]), strict=True):
        cluster.note_address(address)
        serve._announce(SimpleNamespace(address=address), options)
        assert f"--service {there}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *((f"--memory={value}", "must be a finite number of at least 0.17") for value in ("inf", "nan", "0", "-1")),
        ("--status --workers 2", "--status cannot be combined with --workers"),
        ("--status 127.0.0.1:1 --threads 1", "--status cannot be combined with --threads"),
        ("--join 127.0.0.1:1 --port 2", "--join cannot be combined with --port"),
        ("--threads 0", "--threads=0"),
        ("--port 0", "--port=0"),
    ],
)
def test_serve_refuses_invalid_options(home, capsys, options, message):
    assert main(["serve", *options.split()]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("gpus", "workers"), [(0, ()), (0, ("--workers", "1")), (2, ("--workers", "3"))])
def test_serve_refuses_more_workers_than_gpus(home, capsys, monkeypatch, gpus, workers):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert main(["serve", "--decode", "gpu", *workers]) == 1
    text = capsys.readouterr().err
    assert ("torch sees 2 GPUs here, one per worker" if gpus else "torch sees no GPU here") in text


# Ray's settings


def test_importing_ray_installs_no_exit_hooks(settings):
    cluster.make_token()
    program = """
import atexit, sys
from dali_mix.service import cluster
ended = []
atexit.register(lambda: print(ended))
hook = sys.excepthook
ray = cluster.import_ray(cluster.find_token(), loopback=True)
assert sys.excepthook is hook
from ray._private import worker
worker.disconnect = lambda *_: ended.append("Ray's own")
"""
    text, _ = client(program)
    assert text == "[]\n", text


@pytest.mark.parametrize("printed", [True, False])
def test_pool_end_is_printed_once(printed, monkeypatch):
    monkeypatch.setattr(cluster, "command", cluster.Command())

    def work():
        cluster.command.pool_gone = printed
        raise OSError("Broken pipe") if printed else cluster.PoolGone(cluster.gone("a:1"))

    assert pools.guarded("train", lambda: 3) == 3
    assert cluster.command.status is None and cluster.command.speaker == "dali-mix train: error: "
    if printed:
        assert pools.guarded("train", work) is None
    else:
        with pytest.raises(RuntimeError, match=r"^the pool at a:1 is gone") as error:
            pools.guarded("train", work)
        assert isinstance(error.value, OSError)  # a message on the command line, no traceback
    assert cluster.command.status == 1


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """Yield a `Watch` whose thread never runs, and the raylet's end of its socket."""
    monkeypatch.setattr(cluster, "command", cluster.Command(speaker="dali-mix train: error: "))
    thread = SimpleNamespace(start=lambda: None)
    monkeypatch.setattr(cluster, "threading", SimpleNamespace(Lock=threading.Lock, Thread=lambda **_: thread))
    name = str(tmp_path / "store")
    with socket.socket(socket.AF_UNIX) as store:
        store.bind(name)
        store.listen()
        node = SimpleNamespace(plasma_store_socket_name=name)
        made = cluster.Watch(
            SimpleNamespace(_private=SimpleNamespace(worker=SimpleNamespace(_global_node=node))), "a:1"
        )
        with store.accept()[0] as raylet:
            yield made, raylet


def test_check_detects_dead_raylet(watch, capfd):
    """Otherwise Ray would end the process without a message before the watching thread runs."""
    watch, raylet = watch
    watch.check()
    raylet.close()
    with pytest.raises(cluster.PoolGone, match=r"^the pool at a:1 is gone"):
        watch.check()
    watch._wait()
    assert capfd.readouterr().err == f"dali-mix train: error: {cluster.gone('a:1')}\n"
    assert cluster.command.pool_gone


@pytest.fixture
def default_timeout():
    socket.setdefaulttimeout(0.01)
    yield
    socket.setdefaulttimeout(None)


def test_default_socket_timeout_does_not_end_pool(default_timeout, watch):
    watch, raylet = watch
    waiting = threading.Thread(target=watch._wait)
    waiting.start()
    waiting.join(0.1)
    watch.check()
    raylet.close()
    waiting.join()


def test_closed_watch_reports_no_lost_pool(watch, capfd):
    watch, raylet = watch
    watch.close()
    raylet.close()
    watch.check()
    watch._wait()
    assert not capfd.readouterr().err and not cluster.command.pool_gone


# The code of custom steps


@pytest.fixture
def custom_step(tmp_path, monkeypatch):
    """Yield a function that writes the module `turning_steps` and returns a spec that uses it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    prefix = png_set(tmp_path / "set", 20)
    options = {"image_size": 32, "steps": [{"type": "turning_steps:Turn"}]}

    def write(call):
        path = tmp_path / "turning_steps.py"
        path.write_text(STEP.format(call=call))
        os.utime(path, ns=(0, len(call)))  # Python compares size and time (in seconds) with the compiled file
        sys.modules.pop("turning_steps", None)
        importlib.invalidate_caches()
        sys.dont_write_bytecode = True
        return Spec(prefix, "imagenet", options, True, 0, "auto", True)

    kept = sys.dont_write_bytecode
    yield write
    sys.dont_write_bytecode = kept
    sys.modules.pop("turning_steps", None)


def _code(own):
    return spec.code_of(pipelines.build(own.pipeline, own.train, own.options))


def test_custom_code_is_compared_by_content(custom_step, tmp_path):
    own = custom_step("flip")
    first = _code(own)
    assert first == {"turning_steps.Turn": (str(tmp_path / "turning_steps.py"), first["turning_steps.Turn"][1])}
    assert spec.code_differences(first, first, "host") == ""
    elsewhere = {"turning_steps.Turn": ("/other/turning_steps.py", first["turning_steps.Turn"][1])}
    assert spec.code_differences(first, elsewhere, "host") == ""
    assert spec.key_of(own, "f", first) == spec.key_of(own, "f", elsewhere)
    Path(first["turning_steps.Turn"][0]).write_text("# changed since it was imported")
    assert _code(own) == first
    second = _code(custom_step("rotate"))
    file = str(tmp_path / "turning_steps.py")
    digests = [code["turning_steps.Turn"][1][:12] for code in (first, second)]
    assert spec.code_differences(second, first, "host7") == (
        f"turning_steps.Turn differs: {file} (sha256 {digests[1]}) here, {file} (sha256 {digests[0]}) on host7"
    )
    assert spec.code_differences(second, {}, "host7").endswith("here, none on host7")
    assert spec.key_of(own, "f", first) != spec.key_of(own, "f", second)
    assert _code(dataclasses.replace(own, options={"image_size": 32})) == {}


def test_worker_with_different_code_refuses(custom_step):
    own = custom_step("flip")
    worker = Worker("cpu", 1)
    found = worker.describe_set(own)
    fingerprint = found["metainfo"]["fingerprint"]
    question = Question(0, np.arange(4))
    assert found["code"] == _code(own)
    key = spec.key_of(own, fingerprint, found["code"])
    custom_step("rotate")
    with pytest.raises(ValueError, match=r"the worker on .* would decode differently .*turning_steps\.py"):
        worker.answer(key, own, fingerprint, question)
    custom_step("flip")
    chunk, _ = worker.answer(key, own, fingerprint, question)
    assert len(chunk.rows) == 4


def test_unimportable_step_is_reported_by_worker(custom_step, tmp_path):
    own = custom_step("flip")
    (tmp_path / "turning_steps.py").unlink()
    host = socket.gethostname()
    with pytest.raises(ValueError, match=rf"^the workers on {host} cannot import what pipeline 'imagenet' needs") as e:
        Worker("cpu", 1).describe_set(own)
    assert "No module named 'turning_steps'" in str(e.value)
    assert "install its package where workers run" in str(e.value) and "folder of the recipe" not in str(e.value)
    unknown = dataclasses.replace(own, options={"steps": [{"type": "nobody-offers-it"}]})
    with pytest.raises(ValueError, match=rf"^the workers on {host} cannot build pipeline 'imagenet' \(step 'nobody"):
        Worker("cpu", 1).describe_set(unknown)


class _StubPool(clients.RayPool):
    """A pool without Ray. Calls of its actor return `found`."""

    def __init__(self, found, fallback="wait", worker=None):
        self.address, self.fallback, self._found = "127.0.0.1:1", fallback, found
        self.watch = SimpleNamespace(check=lambda: None, check_head=lambda: None)
        error = type("E", (Exception,), {})
        remote = SimpleNamespace(describe_set=SimpleNamespace(remote=lambda own: worker(own)))
        self.ray = SimpleNamespace(
            exceptions=SimpleNamespace(RayError=error, RayTaskError=error),
            get_actor=lambda *_, **__: remote,
            get=lambda value, **_: value,
        )

    def actor(self):
        return None

    def _of_pool(self, method):
        return self._found


def test_pool_with_different_code_is_refused(custom_step):
    own = custom_step("flip")
    theirs = Worker("cpu", 1).describe_set(own)
    details = {"w": {"versions": spec.versions(), "decode": "cpu", "host": "host7"}}
    opened = _StubPool(details, worker=lambda _: theirs).open(own)
    assert opened.count == 20
    custom_step("rotate")
    with pytest.raises(ValueError, match=r"^127\.0\.0\.1:1: turning_steps\.Turn differs: .* here, .* on host7: make"):
        _StubPool(details, worker=lambda _: theirs).open(own)


def test_pool_without_workers_raises_or_falls_back(tmp_path, monkeypatch):
    monkeypatch.setattr(clients, "WAIT_FOR_WORKERS", 0.0)
    prefix = png_set(tmp_path / "set", 20)
    own = Spec(prefix, "imagenet", {"image_size": 32}, True, 0, "auto", True)
    with pytest.raises(ValueError, match=r"^127\.0\.0\.1:1: the pool has no worker"):
        _StubPool({}).open(own)
    opened, records = _StubPool({}, "local").open(own), RecordSet(prefix)
    assert (opened.count, opened.metainfo, opened.local) == (20, records.metainfo, "cpu")
    assert np.array_equal(opened.taller, records.taller)
    with pytest.raises(FileNotFoundError):
        _StubPool({}, "local").open(dataclasses.replace(own, prefix=tmp_path / "none"))


def _port(address):
    return cluster.split_address(address)[1]
