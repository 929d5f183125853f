"""Connecting to a pool: Ray's settings, the token, and the address file used by `service="auto"`.

Ray's defaults are insecure: anyone who can reach a port can run code. Here a token is always required, and without
`--listen` every port is bound to the loopback device.

More than 300 lines: connecting, its settings, and the messages about failures, which depend on both.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import gc
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

from dali_mix.loading.chunks import Chunk
from dali_mix.service import notes

NAMESPACE = "dali_mix"
POOL = "pool"  # the actor's name
PORT = 6379
LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 10 << 20  # approximate, at 224 × 224
FORKED = (
    "a pool cannot be used in a forked process: connect and build the loader only there, or start the process with the"
    " method 'spawn'"
)
HEAD_CHECK, HEAD_GONE = 1.0, 8.0  # seconds between checks of the head, and until it counts as dead
RECONNECT = 20  # seconds without the head until Ray ends a process; clients end earlier, with a message
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # HTTP/2, empty settings
SETTINGS_FRAME = 4
GREETING = 8.0  # seconds to wait for the reply


class PoolGone(ConnectionError, RuntimeError):
    """Raised by a client whose pool has ended.

    It is a ConnectionError because the command line prints errors of this type without a traceback.
    """


@dataclasses.dataclass
class Command:
    """What `Watch` and `_leave` need to know of the `dali-mix` command that this process runs.

    The command sets `speaker` and `status`, and `Watch` sets `pool_gone`. Other programs keep the defaults.
    """

    speaker: str = ""  # prefix of its messages
    pool_gone: bool = False  # `Watch` has printed the message
    status: int | None = None  # exit status if the pool is gone


command = Command()


def home() -> Path:
    """Return the folder that holds the token and the list of this machine's pools."""
    return Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "dali_mix"


def make_home() -> Path:
    """Return `home()`; create it, accessible only by this user, if needed. Raise ValueError if it is not writable."""
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (probe := folder / f".{os.getpid()}.tmp").touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be written ({error.strerror}): `dali-mix serve` keeps its token and its address there;"
            " set XDG_CONFIG_HOME to a folder that can be"
        ) from None
    return folder


def token_file() -> Path:
    """Return the token file's path: the environment variable DALI_MIX_SERVICE_TOKEN, else service_token in `home()`."""
    named = os.environ.get("DALI_MIX_SERVICE_TOKEN")
    return Path(named).expanduser() if named else home() / "service_token"


def make_token() -> Path:
    """Return the path of the token file; create it, readable only by this user, if it does not exist.

    Raise ValueError if `home()` is not writable or the token is empty.
    """
    make_home()
    path = token_file()
    if not path.exists():
        written = path.with_name(f"{path.name}.{os.getpid()}")
        written.touch(0o600)
        written.write_text(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(written, path)
        written.unlink()
    return _filled(path, "remove it, and a new one is made")


def find_token() -> Path:
    """Return the path of the token file. Raise ValueError if it does not exist or is empty."""
    path = token_file()
    if not path.is_file():
        raise ValueError(f"{path}: no token; copy the one that `dali-mix serve` names on the pool's machine")
    return _filled(path, "copy the one that `dali-mix serve` names on the pool's machine")


def _filled(path: Path, advice: str) -> Path:
    if not path.read_bytes().strip():
        raise ValueError(f"{path}: the token is empty: {advice}")
    return path


def settings(token: Path, *, loopback: bool) -> dict[str, str]:
    """Return the environment variables for Ray's processes. With `loopback`, Ray uses only the loopback device."""
    values = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the loader raises them; Ray would print them, with a traceback
        "RAY_DISABLE_MEMORY_MONITOR": "1",
        "RAY_BACKEND_LOG_LEVEL": "error",  # else Ray's C++ code logs hundreds of lines per lost machine
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT),
    }
    if loopback:  # Ray uses 127.0.0.1 only for a single machine, else binds to every interface
        values["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return values


def import_ray(token: Path, *, loopback: bool) -> Any:
    """Set the environment variables of `settings`, import ray and return the module.

    The first import also disables Ray's exception hook and error messages, and replaces its exit handler with `_leave`.
    Raise ValueError if Ray is not installed or was already imported without a token.
    """
    if "ray" in sys.modules and os.environ.get("RAY_AUTH_MODE") != "token":
        raise ValueError("ray was already imported without a token: connect to the pool before anything else uses Ray")
    os.environ.update(settings(token, loopback=loopback))
    imported, hook = "ray" in sys.modules, sys.excepthook
    try:
        import ray  # reads the environment on import
        from ray._private import ray_constants, worker
    except ImportError:
        raise ValueError("the service needs Ray: pip install 'dali_mix[service]'") from None
    if not imported:
        sys.excepthook = hook  # Ray's own hook reports to the head, and waits a minute if the head is gone
        atexit.unregister(worker.shutdown)  # also waits
        atexit.register(_leave, ray)
        worker.listen_error_messages = _no_messages
    ray_constants.ENABLE_RAY_CLUSTER = not loopback  # this process may have joined another address before
    return ray


def _no_messages(*_: object) -> None:
    """Do nothing; replaces the thread function in which Ray prints 1,200 characters for each worker that died."""


def _leave(ray: Any) -> None:
    """Disconnect from the pool at exit, unless the pool has ended, since Ray would then wait for an answer.

    In a process that has not disconnected, Ray's threads may crash during interpreter shutdown. If the pool has ended
    and the exit status is known, the other exit handlers are therefore run here, and the process ends.
    """
    if not ray.is_initialized():
        return
    if reachable(*split_address(ray.get_runtime_context().gcs_address)):
        ray.shutdown()
        return
    status = 1 if hasattr(sys, "last_value") and not hasattr(sys, "ps1") else command.status  # 1: uncaught exception
    if status is not None:
        atexit.unregister(_leave)
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def note_address(address: str) -> None:
    """Append the address of a pool on this machine to the list in `home()`, and remove addresses that do not answer.

    Create `home()` if needed. Raise ValueError if it is not writable.
    """
    notes.note(make_home(), address, _answers)


def forget_address(address: str) -> None:
    """Remove the address of a pool from the list in `home()`."""
    notes.forget(home(), address)


def _answers(address: str) -> bool:
    return reachable(*split_address(address), 0.5)


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of HOST, HOST:PORT or "auto".

    The default port is `PORT`, and "localhost" becomes `LOOPBACK`. "auto" is the first pool in this machine's list that
    answers, or the last pool in the list if none does. Raise ValueError for an invalid address, or for "auto" if the
    list is empty.
    """
    wrong = f"{address!r} is not an address: give HOST:PORT as printed by `dali-mix serve`, or auto"
    if not isinstance(address, str):
        raise ValueError(wrong)
    if address == "auto":
        pools = notes.noted(home())
        if not pools:
            raise ValueError(
                "no pool runs on this machine: start one with `dali-mix serve`, or give the address that it printed"
            )
        address = next((pool for pool in pools[:-1] if _answers(pool)), pools[-1])
    host, _, port = address.partition(":")
    host = LOOPBACK if host == "localhost" else host
    if not host or not (port or str(PORT)).isdecimal() or not 0 < int(port or PORT) < 1 << 16:
        raise ValueError(wrong)
    return host, int(port or PORT)


def listening(name: str) -> str:
    """Resolve `name` to the IPv4 address to listen on.

    Raise ValueError for a wildcard, an unknown host, or an address that does not belong to this machine.
    """
    if name in ("", "*", "0.0.0.0", "::"):
        raise ValueError(f"--listen {name!r}: give the address of this machine by which other machines reach it")
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        raise ValueError(f"--listen {name}: no such host ({error.strerror}): give an IPv4 address or a name") from None
    try:
        with socket.socket() as probe:
            probe.bind((address, 0))
    except OSError:
        raise ValueError(
            f"--listen {name}: {address} is not an address of this machine: `hostname -I` lists them"
        ) from None
    return address


def own_address(host: str, port: int) -> str:
    """Return this machine's source address for packets to `host`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return probe.getsockname()[0]


def nothing_at(address: str) -> str:
    """Return the message for an address where nothing listens."""
    return f"no pool answers at {address}: is `dali-mix serve` running there, and the port open?"


def reachable(host: str, port: int, seconds: float = 2.0) -> bool:
    """Return True if the address accepts a connection within `seconds`."""
    try:
        socket.create_connection((host, port), seconds).close()
    except OSError:
        return False
    return True


def check_pool(host: str, port: int) -> None:
    """Raise ValueError unless a server at this address speaks HTTP/2, as pools do.

    With any other server, Ray would wait silently.
    """
    where = f"{host}:{port}"
    if not reachable(host, port):
        raise ValueError(nothing_at(where))
    answer, end = b"", time.monotonic() + GREETING
    with contextlib.suppress(OSError), socket.create_connection((host, port), GREETING) as connection:
        connection.sendall(PREFACE)
        while len(answer) < 4 and time.monotonic() < end:
            connection.settimeout(max(0.01, end - time.monotonic()))
            if not (more := connection.recv(9 - len(answer))):
                break
            answer += more
    if answer[3:4] != bytes([SETTINGS_FRAME]):
        what = "does not answer as a pool does" if answer else f"has not answered within {GREETING:.0f} s"
        raise ValueError(
            f"{where} is not a pool: the server there {what}; give the address that `dali-mix serve` printed after"
            ' "pool", not that of its page'
        )


def join(address: str) -> tuple[Any, str]:
    """Connect this process to the cluster at `address`, unless it already is, and return the module ray and HOST:PORT.

    Raise ValueError if `address` is invalid, Ray or the token is missing, no pool answers there, the connection fails,
    this process was forked from a connected one, or it is connected to another cluster.
    """
    host, port = split_address(address)
    where = f"{host}:{port}"
    token = find_token()
    ray = import_ray(token, loopback=host == LOOPBACK)
    if ray.is_initialized():
        if _connected and os.getpid() not in _connected:  # Ray's threads do not exist here: calls would hang
            raise ValueError(FORKED)
        if ray.get_runtime_context().gcs_address != where:
            raise ValueError(f"this process is connected to {ray.get_runtime_context().gcs_address}, not to {where}")
        return ray, where
    check_pool(host, port)
    with _quiet(), _kept_handlers(ray._private.utils), _few_tries(ray._private.ray_constants):
        try:
            ray.init(
                address=where,
                namespace=NAMESPACE,
                log_to_driver=False,
                configure_logging=False,
                **({"_node_ip_address": LOOPBACK} if host == LOOPBACK else {}),
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ValueError(why_not(where, token, str(error))) from error
    _connected.add(os.getpid())
    return ray, where


_connected: set[int] = set()  # pids that called `join`: this process or one it was forked from


class Watch:
    """A watch on the raylet, Ray's process on this machine, that reports its death on standard error.

    After the raylet's death, Ray ends this process silently, by `_exit`, when Ray is next called or some of its memory
    is released. Chunks are in such memory, so the watch keeps them alive. Callers call `check` before they call Ray.
    """

    def __init__(self, ray: Any, address: str) -> None:
        self._message = gone(address)
        self._process = os.getpid()
        self._head = split_address(address)
        self._looked = time.monotonic()
        self._gone: float | None = None  # when the head stopped answering
        self._dead = self._closed = False
        self._kept: list[Chunk] = []
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(None)  # whatever `socket.setdefaulttimeout` was called with
        self._socket.connect(ray._private.worker._global_node.plasma_store_socket_name)
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.recv(1)  # blocks until the other end is closed
        self._end()

    def _end(self) -> None:
        """Mark the pool as gone, write the message and keep all chunks alive.

        Do nothing if the pool was already marked, or the watch is closed.
        """
        with self._lock:
            if self._dead or self._closed:
                return
            command.pool_gone = True
            os.write(2, f"{command.speaker}{self._message}\n".encode())  # first, as the rest may take time
            self._kept = [found for found in gc.get_objects() if type(found) is Chunk]
            self._dead = True

    def _hung_up(self) -> bool:
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    @property
    def ended(self) -> bool:
        """Return True if the raylet has died or the pool's head does not answer.

        Ray must not be called then, since it would wait for the head and then end this process.
        """
        return self._dead or not reachable(*self._head)

    def check(self) -> None:
        """Raise PoolGone if the raylet has died, and RuntimeError in a process forked from the one that made the watch.

        Call this before calling Ray, which would hang in a forked process.
        """
        if os.getpid() != self._process:
            raise RuntimeError(FORKED)
        if not self._dead and self._hung_up():  # `_wait` may still be waiting for the GIL
            self._end()
        if self._dead:
            raise PoolGone(self._message)

    def check_head(self) -> None:
        """Raise PoolGone if the pool's head machine has not answered for `HEAD_GONE` seconds.

        Each call tries to connect to the head, at most once per `HEAD_CHECK` seconds. The time is counted from the
        first failure, so callers must call this repeatedly.
        """
        now = time.monotonic()
        if now - self._looked < HEAD_CHECK:
            return
        self._looked = now
        if reachable(*self._head):
            self._gone = None
            return
        self._gone = self._gone or now
        if now - self._gone > HEAD_GONE:
            raise PoolGone(self._message)

    def close(self) -> None:
        """Stop watching: the raylet's death is no longer reported, and `check` no longer notices it."""
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
        f"the pool at {address} is gone: start it again with `dali-mix serve`, then run this again, or resume a"
        " training"
    )


def no_worker(address: str) -> str:
    """Return the message for a pool without workers."""
    return f"{address}: the pool has no worker: start some with `dali-mix serve --join {address}`"


def other_versions(address: str, differ: str) -> str:
    """Return the message for a pool whose versions differ from those here; `differ`: see `spec.differences`."""
    return f"{address}: the pool has different versions: {differ}: install the same on both, and restart the workers"


def why_not(where: str, token: Path, said: str) -> str:
    """Return the message for a pool that cannot be joined; `said`: Ray's own message."""
    text = " ".join(said.split())
    wrong = f"{where}: wrong token, or no pool there: the token in {token} must be the one of the pool"
    if "AuthenticationError" in text or "InvalidAuthToken" in text:
        return wrong
    if "ersion" in text and "ython" in text:
        return f"{where}: the pool runs a different Ray or Python: {text}"
    if "raylet" in text.lower() or "Can't find a" in text or "node" in text.lower():
        return (
            f"{where}: this machine is not part of the pool yet: run `dali-mix serve --join {where} --workers 0` on it"
            f" first ({text})"
        )
    return f"{wrong} ({text})"


@contextlib.contextmanager
def _kept_handlers(utils: Any) -> Iterator[None]:
    """Preserve the SIGTERM and SIGINT handlers while the block calls `ray.init`.

    Ray's own SIGTERM handler exits with status 15, so a preempted training run would not save. In the block, the
    function of `utils` that sets it is replaced by one that does nothing.
    """
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    set_handler, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = set_handler
        for number, handler in kept.items():
            with contextlib.suppress(ValueError):  # not the main thread: Ray has set none
                signal.signal(number, handler)


@contextlib.contextmanager
def _few_tries(constants: Any) -> Iterator[None]:
    """Limit `ray.init` to 3 tries in the block. By default it tries 20 times, 1 s apart, even with a wrong token.

    The number is changed in `constants`, Ray's module of constants, and restored at the end of the block.
    """
    kept, constants.NUM_REDIS_GET_RETRIES = constants.NUM_REDIS_GET_RETRIES, 3
    try:
        yield
    finally:
        constants.NUM_REDIS_GET_RETRIES = kept


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress standard error in the block. Ray's C++ code writes a line per second to it while connecting."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
