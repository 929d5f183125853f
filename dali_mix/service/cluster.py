"""Connecting to a pool: Ray's settings, the token, and the address file used by `service="auto"`.

Ray's defaults are insecure: anyone who can reach a port can run code. Here a token is always required, and without
`--listen` every port is bound to the loopback device.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMESPACE = "dali_mix"
POOL = "pool"  # the actor's name
PORT = 6379
LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 10 << 20  # about, at 224 × 224
HEAD_CHECK, HEAD_GONE = 1.0, 8.0  # seconds between looks at the head, and until it counts as dead


def home() -> Path:
    """Return the folder of the token and of this machine's pool address, readable only by this user."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "dali_mix"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def token_file() -> Path:
    """Return the path of the token file: DALI_MIX_SERVICE_TOKEN, or the one in `home()`."""
    named = os.environ.get("DALI_MIX_SERVICE_TOKEN")
    return Path(named).expanduser() if named else home() / "service_token"


def make_token() -> Path:
    """Return the path of the token file; create it, readable only by this user, if it does not exist."""
    path = token_file()
    if not path.exists():
        written = path.with_name(f"{path.name}.{os.getpid()}")
        written.touch(0o600)
        written.write_text(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):  # another was faster
            os.link(written, path)
        written.unlink()
    return path


def find_token() -> Path:
    """Return the path of the token file. Raise ValueError if it does not exist."""
    path = token_file()
    if not path.is_file():
        raise ValueError(f"{path}: no token; copy the one that `dali-mix serve` names on the pool's machine")
    return path


def settings(token: Path, *, loopback: bool) -> dict[str, str]:
    """Return the environment variables for Ray's processes."""
    values = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the loader raises them; Ray would print them, with a traceback
        "RAY_DISABLE_MEMORY_MONITOR": "1",
    }
    if loopback:  # Ray takes 127.0.0.1 only where it expects no second machine, and else binds to every interface
        values["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return values


def import_ray(token: Path, *, loopback: bool) -> Any:
    """Import ray, configured to authenticate with `token`. Raise ValueError if it is missing, or already imported with
    other settings.
    """
    if "ray" in sys.modules and os.environ.get("RAY_AUTH_MODE") != "token":
        raise ValueError("ray was imported before without a token: connect to the pool before anything else uses Ray")
    os.environ.update(settings(token, loopback=loopback))
    try:
        import ray  # it reads the environment now
        from ray._private import ray_constants
    except ImportError:
        raise ValueError("the service needs Ray: pip install 'dali_mix[service]'") from None
    ray_constants.ENABLE_RAY_CLUSTER = not loopback  # it may be the second address of this process
    return ray


def note_address(address: str) -> None:
    """Record the address of this machine's pool, unless one already recorded is still running."""
    with contextlib.suppress(ValueError):
        if reachable(*split_address("auto"), 0.5):
            return
    (home() / "service.json").write_text(json.dumps({"address": address, "host": socket.gethostname()}))


def forget_address(address: str) -> None:
    """Remove the recorded address if it is that pool's."""
    with contextlib.suppress(OSError, ValueError):
        if json.loads((home() / "service.json").read_text())["address"] == address:
            (home() / "service.json").unlink()


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of HOST, HOST:PORT, or "auto" (the pool recorded on this machine). Raise ValueError if
    invalid.
    """
    if address == "auto":
        try:
            address = json.loads((home() / "service.json").read_text())["address"]
        except (OSError, ValueError, KeyError):
            raise ValueError(
                "no pool runs on this machine: start one with `dali-mix serve`, or give the address that it printed"
            ) from None
    host, _, port = address.partition(":")
    host = LOOPBACK if host == "localhost" else host
    if not host or not (port or str(PORT)).isdecimal():
        raise ValueError(f"{address!r} is no address: give HOST:PORT as `dali-mix serve` prints it, or auto")
    return host, int(port or PORT)


def own_address(host: str, port: int) -> str:
    """Return this machine's source address for packets to `host`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return probe.getsockname()[0]


def nothing_at(address: str) -> str:
    """Return the message for an address where nothing listens."""
    return f"no pool answers at {address}: is `dali-mix serve` running there, and the port open?"


def reachable(host: str, port: int, seconds: float = 2.0) -> bool:
    """Return True if the address accepts connections."""
    try:
        socket.create_connection((host, port), seconds).close()
    except OSError:
        return False
    return True


def join(address: str) -> tuple[Any, str]:
    """Connect this process to the cluster at `address`; return the module ray and HOST:PORT. Raise ValueError."""
    host, port = split_address(address)
    where = f"{host}:{port}"
    token = find_token()
    ray = import_ray(token, loopback=host == LOOPBACK)
    if ray.is_initialized():
        if ray.get_runtime_context().gcs_address != where:
            raise ValueError(f"this process is connected to {ray.get_runtime_context().gcs_address}, not to {where}")
        return ray, where
    if not reachable(host, port):
        raise ValueError(nothing_at(where))
    with _quiet(), _kept_handlers():
        try:
            ray.init(
                address=where,
                namespace=NAMESPACE,
                log_to_driver=False,
                configure_logging=False,
                **({"_node_ip_address": LOOPBACK} if host == LOOPBACK else {}),
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ValueError(_why_not(where, token, error)) from error
    return ray, where


class Watch:
    """Writes a message to standard error once Ray's process on this machine (the raylet) has died.

    Ray would then end this process silently, by `_exit`, at the next call or release of Ray memory.
    """

    def __init__(self, ray: Any, address: str) -> None:
        self._message = gone(address)
        self._head = split_address(address)
        self._looked = time.monotonic()
        self._gone: float | None = None  # since when the head does not answer
        self._dead = self._closed = False
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(ray._private.worker._global_node.plasma_store_socket_name)
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.recv(1)  # until the other end is closed
        if not self._closed:
            os.write(2, f"{self._message}\n".encode())
            self._dead = True

    @property
    def dead(self) -> bool:
        return self._dead

    def check(self) -> None:
        """Raise RuntimeError with the message if the raylet has died; call this before calling Ray."""
        if self._dead:
            raise RuntimeError(self._message)

    def check_head(self) -> None:
        """Raise RuntimeError if the pool's head machine has not answered for `HEAD_GONE` seconds."""
        now = time.monotonic()
        if now - self._looked < HEAD_CHECK:
            return
        self._looked = now
        if reachable(*self._head):
            self._gone = None
            return
        self._gone = self._gone or now
        if now - self._gone > HEAD_GONE:
            raise RuntimeError(self._message)

    def close(self) -> None:
        """Stop watching."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def pool_actor(ray: Any, address: str) -> Any:
    """Return the handle of the pool's actor. Raise ValueError if there is none."""
    try:
        return ray.get_actor(POOL, namespace=NAMESPACE)
    except ValueError:
        raise ValueError(f"{address}: a Ray cluster, but no pool of dali_mix: run `dali-mix serve`") from None


def gone(address: str) -> str:
    """Return the message for a client whose pool has ended."""
    return (
        f"the pool at {address} is gone: start it again with `dali-mix serve`, then run this again, a training with"
        " --resume"
    )


def no_worker(address: str) -> str:
    """Return the message for a pool without workers."""
    return f"{address}: the pool has no worker: start some with `dali-mix serve --join {address}`"


def other_versions(address: str, differ: str) -> str:
    """Return the message for a pool with different versions; `differ`: see `spec.differences`."""
    return f"{address}: the pool has other versions than this process: {differ}"


def _why_not(where: str, token: Path, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "ersion" in text and "ython" in text:
        return f"{where}: the pool runs another Ray or Python: {text}"
    if "raylet" in text.lower() or "Can't find a" in text or "node" in text.lower():
        return (
            f"{where}: this machine is no part of the pool yet: run `dali-mix serve --join {where} --workers 0` on it"
            f" first ({text})"
        )
    return f"{where}: wrong token, or no pool there: the token in {token} must be the one of the pool ({text})"


@contextlib.contextmanager
def _kept_handlers() -> Iterator[None]:
    """Put signal handlers back: `ray.init` replaces SIGTERM's, and a preempted training would no longer save."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            with contextlib.suppress(ValueError):  # not the main thread, where Ray has set none
                signal.signal(number, handler)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send to nowhere what Ray's C++ code writes to standard error, a line a second, while it tries to connect."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
