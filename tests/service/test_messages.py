"""Problems are reported within 30 s and with advice."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dali_mix import build_loader, pipelines, service
from dali_mix.cli.main import main
from dali_mix.recordio import write_set
from dali_mix.service import cluster, node, spec
from tests.loading.sets import encode, picture, png_set
from tests.service.serving import TINY, Serve, client, free_port

CONNECT = """
import sys, time, dali_mix.service
begun = time.monotonic()
try: dali_mix.service.connect(sys.argv[1])
except ValueError as error: print(error)
print(time.monotonic() - begun)
"""
LOAD = {"batch_size": 8, "train": True, "device": "cpu", "pipeline_options": {"image_size": 32}}


@contextmanager
def time_limit():
    """Assert that the block takes less than 60 s (30 s on a quiet machine). It must not start a process."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < 60


def failed_connection(address, program=CONNECT, **environment):
    """Run a client that cannot connect; return its message and the seconds until it failed."""
    text, _ = client(program, address, **environment)
    assert text.endswith("\n"), text
    said, _, seconds = text[:-1].rpartition("\n")
    assert float(seconds) < 60, text  # 30 on a quiet machine
    return said, float(seconds)


@pytest.fixture(scope="module", autouse=True)
def unauthorized_clients(head, tmp_path_factory):
    """Start a client with a wrong token and one without a token; yield the wrong token's file and two futures.

    A future's result is that of `failed_connection`. Ray takes 20 s to refuse them, so other tests run meanwhile.
    """
    token = tmp_path_factory.mktemp("stranger") / "token"
    token.write_text("0" * 64)
    plain = """
import os, sys
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
import ray, time
begun = time.monotonic()
try: ray.init(sys.argv[1], _node_ip_address="127.0.0.1")
except Exception as error: print("refused", error)
else: print(ray.nodes())
print(time.monotonic() - begun)
"""
    with ThreadPoolExecutor() as threads:
        wrong = threads.submit(failed_connection, head.address, DALI_MIX_SERVICE_TOKEN=str(token))
        yield token, wrong, threads.submit(failed_connection, head.address, plain)


def test_missing_token_is_reported(head, tmp_path):
    text, _ = failed_connection(head.address, DALI_MIX_SERVICE_TOKEN=str(tmp_path / "token"))
    assert text == f"{tmp_path}/token: no token; copy the one that `dali-mix serve` names on the pool's machine"


def test_unreachable_pool_is_reported(settings, capsys):
    cluster.make_token()  # in case no pool has run here before
    address = f"127.0.0.1:{free_port()}"
    text, seconds = failed_connection(address)
    assert text == f"no pool answers at {address}: is `dali-mix serve` running there, and the port open?"
    assert seconds < 20
    assert main(["serve", "--join", address, "--memory", str(TINY)]) == 1
    assert capsys.readouterr().err == (
        f"dali-mix serve: error: no pool answers at {address}: is `dali-mix serve` running there, and the port open?\n"
    )


def test_missing_or_invalid_address_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"^no pool runs on this machine: start one with `dali-mix serve`"):
        cluster.split_address("auto")
    for address in ("host:http", ":80", ""):
        with pytest.raises(ValueError, match=r"is not an address: give HOST:PORT"):
            cluster.split_address(address)
    assert cluster.split_address("localhost") == ("127.0.0.1", 6379)


def test_auto_resolves_to_local_pool(head):
    assert cluster.split_address("auto") == cluster.split_address(head.address)


def test_second_local_pool_is_not_auto(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as first:
        address = f"127.0.0.1:{first.getsockname()[1]}"
        cluster.note_address(address)
        cluster.note_address("127.0.0.1:1")
        cluster.forget_address("127.0.0.1:1")
        assert cluster.split_address("auto") == cluster.split_address(address)
    cluster.note_address("127.0.0.1:1")  # the first pool has ended without removing its note
    assert cluster.split_address("auto") == ("127.0.0.1", 1)


def test_connecting_again_reuses_watch(pool, head):
    """Connecting again reuses the thread that watches Ray, so the end of the pool is reported once."""
    assert service.connect(head.address).watch is pool.watch


def test_second_address_in_one_process_is_refused(pool):
    import dali_mix.service

    with pytest.raises(ValueError, match=rf"^this process is connected to {pool.address}, not to 127\.0\.0\.1:1$"):
        dali_mix.service.connect("127.0.0.1:1")


def test_different_versions_are_refused(pool, records, monkeypatch):
    monkeypatch.setattr("dali_mix.service.client.versions", lambda: spec.versions() | {"numba": "0.1"})
    with pytest.raises(ValueError, match=r"the pool has different versions: numba 0\.1 here, [\d.]+ there: "):
        build_loader("imagenet", records.prefix, workers=pool, **LOAD)


def test_different_code_of_same_version_is_refused(head, records, tmp_path):
    """Another commit may have the same version, so the contents of files are compared."""
    root = Path(__file__).parents[2]
    for name, into in (("dali_mix", "dali_mix"), ("pipelines", "dali_mix/pipelines")):
        shutil.copytree(root / name, tmp_path / into, ignore=shutil.ignore_patterns("__pycache__"))
    program = tmp_path / "program.py"
    program.write_text(f"""
import sys, dali_mix, dali_mix.service
assert dali_mix.__file__.startswith({str(tmp_path)!r})
try: print(len(dali_mix.build_loader("imagenet", {str(records.prefix)!r}, batch_size=8, train=True, device="cpu",
    workers=dali_mix.service.connect(sys.argv[1])).dataset))
except ValueError as error: print(error)
""")
    assert client(program, head.address)[0] == "1300\n"
    with (tmp_path / "dali_mix/pipelines/random.py").open("a") as file:
        file.write("\n")
    assert re.fullmatch(
        rf"{head.address}: the pool has different versions: dali_mix\.pipelines sha256 \w+ here, sha256"
        r" \w+ there: install the same on both, and restart the workers\n",
        client(program, head.address)[0],
    )


def test_node_with_other_versions_or_device_is_refused(pool):
    import ray

    [(name, details), *_] = ray.get(pool.actor().workers.remote()).items()
    handle = ray.get_actor(name, namespace=cluster.NAMESPACE)
    for change, why in (
        (
            {"versions": details["versions"] | {"numba": "0.1"}},
            f"numba 0.1 here, {details['versions']['numba']} there: install the same on both",
        ),
        ({"decode": "gpu"}, "decode gpu here, cpu there"),
    ):
        assert ray.get(pool.actor().register.remote({"other": (handle, details | change)})) == why


def test_missing_set_is_reported(pool, tmp_path):
    with (
        time_limit(),
        pytest.raises(
            FileNotFoundError, match=rf"^{pool.address}: on the pool's machine {socket.gethostname()}: .*none"
        ),
    ):
        build_loader("imagenet", tmp_path / "none", workers=pool, **LOAD)


def test_replaced_set_is_refused(pool, tmp_path):
    made = build_loader("imagenet", png_set(tmp_path / "set", 200), workers=pool, **LOAD)
    png_set(tmp_path / "set", 210, force=True)
    with (
        time_limit(),
        pytest.raises(ValueError, match=rf"set on {socket.gethostname()} \(fingerprint \w+\) is not the set that"),
    ):
        list(made)


def test_unsupported_loader_options_are_refused(pool, records):
    with pytest.raises(ValueError, match=r"^pipeline 'cifar' decodes a set once and keeps it: it needs no workers"):
        build_loader("cifar", records.prefix, workers=pool, **LOAD)
    made = pipelines.build("imagenet", True, {"image_size": 32})
    with pytest.raises(ValueError, match=r"^workers build the pipeline themselves: give its name and pipeline_options"):
        build_loader(made, records.prefix, workers=pool, **LOAD | {"pipeline_options": None})
    with pytest.raises(ValueError, match=r"decode='gpu', but the pool decodes on the CPU"):
        build_loader("imagenet", records.prefix, workers=pool, decode="gpu", **LOAD)
    with pytest.raises(ValueError, match=r"^pipeline options for workers must be plain values"):
        build_loader(
            "imagenet",
            records.prefix,
            workers=pool,
            **LOAD | {"pipeline_options": {"image_size": 32, "mean": (np.float32(0.5),) * 3}},
        )


@pytest.mark.parametrize(("wanted", "free"), [(None, 64 << 20), (1 << 30, 1 << 29), (64 << 20, 1 << 30)])
def test_too_little_shared_memory_is_refused(monkeypatch, wanted, free):
    monkeypatch.setattr(os, "statvfs", lambda path: namedtuple("S", "f_bavail f_frsize")(free // 4096, 4096))
    with pytest.raises(ValueError, match=rf"^/dev/shm has {free >> 20} MB free, the pool needs \d+: .*--shm-size"):
        node.store_bytes(wanted)


def test_store_uses_share_of_free_shared_memory(monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: namedtuple("S", "f_bavail f_frsize")(1 << 18, 4096))
    assert node.store_bytes(None) <= 0.8 * (1 << 30)
    assert node.store_bytes(200 << 20) == 200 << 20


def test_port_in_use_is_reported(settings, capsys):
    """The port is checked before Ray is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--memory", str(TINY), "--port", str(port)]) == 1
        assert capsys.readouterr().err == (
            f"dali-mix serve: error: 127.0.0.1:{port}: something listens there already: choose another --port, or"
            " --join it\n"
        )
        assert main(["serve", "--memory", str(TINY), "--port", str(free_port()), "--dashboard", str(port)]) == 1
        assert f"--dashboard: port {port} is in use" in capsys.readouterr().err


def test_missing_ray_is_reported(head):
    text, _ = failed_connection(head.address, "import sys\nsys.modules['ray'] = None\n" + CONNECT)
    assert text == "the service needs Ray: pip install 'dali_mix[service]'"


def test_missing_workers_and_lost_head_are_reported(settings, tmp_path):
    """A trainer reports that workers are missing, trains once one has joined, and ends when the head is lost."""
    port, prefix = free_port(), png_set(tmp_path / "set", 2000)
    serve, joined = Serve(settings, "--workers", 0, "--port", port).ready(), None
    program = f"""
import sys, time, dali_mix, dali_mix.service
from dali_mix.service import client
client.WAIT_FOR_WORKERS = 2
pool = dali_mix.service.connect("127.0.0.1:{port}")
def build():
    return dali_mix.build_loader("imagenet", {str(prefix)!r}, batch_size=8, train=True, device="cpu",
        pipeline_options={{"image_size": 32}}, workers=pool)
try: build()
except ValueError as error: print(error, flush=True)
client.WAIT_FOR_WORKERS = 180
try:
    for images, _, _ in build():
        print("step", flush=True)
        time.sleep(.1)
except RuntimeError as error: print("error:", error, flush=True)
"""
    running = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert running.stdout.readline() == (
            f"127.0.0.1:{port}: the pool has no worker: start some with `dali-mix serve --join 127.0.0.1:{port}`\n"
        )
        joined = Serve(settings, "--workers", 1, "--join", f"127.0.0.1:{port}").ready()
        assert running.stdout.readline() == "step\n"
        serve.kill()
        begun = time.monotonic()
        with time_limit():
            text = running.stdout.read()
        print(f"a lost head is noticed after {time.monotonic() - begun:.1f} s")
        assert re.search(rf"^(error: )?{cluster.gone(f'127.0.0.1:{port}')}$", text, re.MULTILINE), text[-2000:]
        status, text = joined.ended()
        assert status == 1 and f"error: the pool at 127.0.0.1:{port} is gone; the workers of this machine end" in text
    finally:
        running.kill()
        running.wait()
        serve.kill()
        if joined is not None:
            joined.kill()


def test_lost_head_is_noticed_while_local_ray_runs(pool, records, monkeypatch):
    """The trainer's own Ray is alive, on another machine than the head."""
    monkeypatch.setattr(cluster, "reachable", lambda *_: False)
    monkeypatch.setattr("dali_mix.service.cluster.HEAD_GONE", 1.5)
    monkeypatch.setattr("dali_mix.service.cluster.HEAD_CHECK", 0.1)
    made = build_loader("imagenet", records.prefix, workers=pool, **LOAD)
    with time_limit(), pytest.raises(RuntimeError, match=f"^{cluster.gone(pool.address)}$"):
        for _ in made:
            time.sleep(0.2)


def test_pool_in_forked_process_is_refused(head, records, tmp_path):
    """Ray's threads do not exist in a forked process. A spawned process can use the loader."""
    program = tmp_path / "program.py"
    program.write_text(f"""
import multiprocessing, sys, dali_mix, dali_mix.service
def show(loader, wanted):
    try: print(next(iter(loader)).ids.tolist() if wanted == "batch" else dali_mix.service.connect(sys.argv[1]))
    except (RuntimeError, ValueError) as error: print(error)
    sys.stdout.flush()
if __name__ == "__main__":
    pool = dali_mix.service.connect(sys.argv[1])
    loader = dali_mix.build_loader("imagenet", {str(records.prefix)!r}, batch_size=8, train=True, device="cpu",
        pipeline_options={{"image_size": 32}}, workers=pool)
    show(loader, "batch")
    for method, wanted in (("fork", "batch"), ("fork", "connection"), ("spawn", "batch")):
        child = multiprocessing.get_context(method).Process(target=show, args=(loader, wanted))
        child.start()
        child.join(120)
        child.kill()
""")
    here, batch, connection, anew = client(program, head.address)[0].splitlines()
    assert batch == connection == cluster.FORKED
    assert len(json.loads(here)) == len(json.loads(anew)) == 8


def test_bad_records_are_reported_as_by_local_loader(pool, tmp_path):
    """The message equals that of the in-process loader. One chunk consists of bad records only."""
    good = [encode(picture(40, 50, seed=i)) for i in range(200)]
    bad = {5: b"<html>", 70: good[70][:90], **dict.fromkeys(range(128, 192), b"")}
    write_set(tmp_path / "set", [(bad.get(i, good[i]), 0, 40, 50, "png") for i in range(200)], classes="a")
    messages = []
    for workers in (None, pool):
        with pytest.raises(ValueError, match=r"record \d+") as error:
            list(build_loader("imagenet", tmp_path / "set", workers=workers, **LOAD | {"train": False}))
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    found = []
    for workers in (None, pool):
        made = build_loader("imagenet", tmp_path / "set", workers=workers, on_bad_record="skip", **LOAD)
        found.append(([batch.ids.tolist() for batch in made], sorted(made.skipped)))
    assert found[0] == found[1]
    assert [number for number, _ in found[0][1]] == sorted(bad)


def test_wrong_or_missing_token_is_refused(head, unauthorized_clients):
    token, wrong, none = unauthorized_clients
    text, seconds = wrong.result()
    assert text.startswith(
        f"{head.address}: wrong token, or no pool there: the token in {token} must be the one of the pool"
    )
    assert seconds < 15  # 5 on a quiet machine
    text, _ = none.result()
    assert "refused" in text and "NodeID" not in text, text
