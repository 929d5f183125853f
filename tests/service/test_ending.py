"""`dali-mix serve` leaves nothing when it ends. Also tests its open ports and the signal handlers of clients."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dali_mix.service import cluster
from tests.loading.sets import encode, picture
from tests.service.serving import Serve, client, free_port, processes, until


def leftovers(serve, sessions, folders, port):
    """Return the remaining processes and folders of a `dali-mix serve`, and its port if it is open."""
    running = [name for pid, session, name in processes() if session in sessions or pid == serve.pid]
    return [*running, *filter(os.path.exists, folders), *([port] if cluster.reachable("127.0.0.1", port, 0.1) else [])]


@pytest.fixture(scope="module")
def serves(settings, tmp_path_factory):
    """Start one `dali-mix serve` per signal; yield {signal: (process, port, file of settings)}."""
    before = set(Path("/dev/shm").glob("plasma*"))
    started = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        port, os.environ["XDG_CONFIG_HOME"] = free_port(), str(tmp_path_factory.mktemp("config"))
        serve = Serve(settings, "--workers", int(number != signal.SIGTERM), "--port", port)
        started[number] = serve, port, Path(os.environ["XDG_CONFIG_HOME"]) / "dali_mix" / "service.json"
    os.environ["XDG_CONFIG_HOME"] = str(settings)
    yield {number: (serve.ready(), *rest) for number, (serve, *rest) in started.items()}
    for serve, _, _ in started.values():
        serve.kill()
    assert set(Path("/dev/shm").glob("plasma*")) <= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signal_ends_serve_and_leaves_nothing(serves, number):
    serve, port, note = serves[number]
    sessions = serve.sessions()
    names = [name for _, session, name in processes() if session in sessions]
    folders = re.findall(r'"temp_dir": "([^"]*)"', " ".join(names))
    assert len(sessions) == 1 and folders and note.exists() and len(names) > 5
    for pid, session, name in processes():
        if session in sessions and name.startswith("ray::Worker"):
            os.kill(pid, signal.SIGSTOP)  # also with frozen workers
    begun = time.monotonic()
    assert serve.stop(number) == (-number if number == signal.SIGKILL else 0)
    until(lambda: not leftovers(serve, sessions, folders, port))
    print(f"{number.name}: nothing left after {time.monotonic() - begun:.1f} s")
    assert note.exists() == (number == signal.SIGKILL)
    if number != signal.SIGKILL:
        assert "rror" not in serve.text


@pytest.mark.parametrize("delay", [0.5, None])
def test_ctrl_c_during_startup_leaves_nothing(settings, delay):
    port = free_port()
    serve = Serve(settings, "--workers", 1, "--port", port)
    if delay:
        time.sleep(delay)
    else:
        until(serve.sessions)
    sessions = serve.sessions()
    begun = time.monotonic()
    assert serve.stop(signal.SIGINT) in (0, 130, -signal.SIGINT)  # -SIGINT: before any of our code has run
    until(lambda: not leftovers(serve, sessions, [], port))
    print(f"Ctrl-C while it starts: {time.monotonic() - begun:.1f} s")


def test_pool_listens_on_loopback_only(head, pool):
    sessions = head.sessions()
    own = {pid for pid, session, _ in processes() if session in sessions} | {head.pid, os.getpid()}
    sockets = set()
    for pid in own:
        with contextlib.suppress(OSError):  # the process has ended
            for path in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):  # closed in the meantime
                    sockets.add(str(path.readlink()))
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                listening.append(fields[1].partition(":")[0])
    assert len(listening) >= 6
    assert set(listening) <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_token_is_readable_by_owner_only(head, settings):
    assert (settings / "token").stat().st_mode & 0o777 == 0o600 and len((settings / "token").read_text()) == 64
    assert (settings / "dali_mix").stat().st_mode & 0o777 == 0o700


def test_connect_keeps_signal_handlers(head):
    program = """
import signal, sys
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, lambda *_: print("mine"))
before = {number: signal.getsignal(number) for number in signal.valid_signals()}
import dali_mix.service
pool = dali_mix.service.connect(sys.argv[1])
pool.status()
assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
signal.raise_signal(signal.SIGTERM)
pool.close()
assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
"""
    text, seconds = client(program, head.address)
    assert text == "mine\n"
    print(f"a client that connects and ends: {seconds:.1f} s")


def test_packer_ends_cleanly_if_pool_stops(settings, tmp_path):
    """The packer prints one message, exits with 1 and leaves no files, although Ray would end or crash its process."""
    port = free_port()
    serve = Serve(settings, "--workers", 2, "--port", port).ready()
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(60):
            (tmp_path / "photos" / name / f"{number}.png").write_bytes(encode(picture(700, 700, seed=number)))
    (tmp_path / "out").mkdir()
    command = ["pack", "imagefolder", "--root", tmp_path / "photos", "--out", tmp_path / "out" / "set", "--quiet"]
    command = [sys.executable, "-m", "dali_mix", *map(str, command), "--shards=50", f"--cluster=127.0.0.1:{port}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as packer:
        until(lambda: any(".part" in path.name for path in (tmp_path / "out").iterdir()))
        serve.stop()
        begun = time.monotonic()
        text = packer.stderr.read()
    print(f"a packer ends {time.monotonic() - begun:.1f} s after its pool")
    assert (packer.returncode, text) == (1, f"dali-mix pack: error: {cluster.gone(f'127.0.0.1:{port}')}\n")
    assert not [path.name for path in (tmp_path / "out").iterdir() if not path.name.endswith(".lock")]
