"""`Node`: this machine's part of a pool: Ray's processes, some workers, and on the first machine the pool itself.

    dali-mix serve ─┬─ ray start --block      this machine's Ray processes, all ended with it
                    ├─ pool                    on the first machine
                    └─ worker, worker, …       on every machine

Workers belong to the process that started them: when it ends, however it ends, they end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dali_mix.service import cluster

LEAST_STORE = 160 << 20  # bytes of shared memory: two trainers' windows
SHARE_OF_STORE = 0.5  # for answers that are kept; the rest is for those under way
START = 60.0  # seconds for Ray to start
STOP = 15.0  # seconds for it to end
_PR_SET_PDEATHSIG = 1


class Node:
    """Use it as a context manager; inside, `beat` about once a second.

    Args:
        workers: processes to start here; 0 for a machine that only trains.
        threads: DALI's threads for each of the two questions that a worker works on.
        decode: "cpu" or "gpu"; on GPUs each worker takes one.
        address: of the pool to join; None to start one.
        listen: the address of this machine that others reach it at; None for the loopback device.
        store: bytes of shared memory for images; None for what fits.
    """

    def __init__(
        self,
        workers: int,
        *,
        threads: int = 1,
        decode: str = "cpu",
        address: str | None = None,
        listen: str | None = None,
        port: int = cluster.PORT,
        store: int | None = None,
    ) -> None:
        self._count = workers
        self._threads = threads
        self._decode = decode
        self._head = address is None
        self._host = listen or cluster.LOOPBACK
        self.address = f"{self._host}:{port}" if address is None else "{}:{}".format(*cluster.split_address(address))
        self._listen = listen
        self._store = store_bytes(store)
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._members: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._pool: Any = None
        self._ray: Any = None

    def __enter__(self) -> Node:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _start(self) -> None:
        host, port = cluster.split_address(self.address)
        if self._head and cluster.reachable(host, port, 0.5):
            raise ValueError(f"{self.address}: something listens there already: choose another --port, or --join it")
        if not self._head and not cluster.reachable(host, port):
            raise ValueError(
                f"no pool answers at {self.address}: is `dali-mix serve` running there, and the port open?"
            )
        token = cluster.make_token() if self._head else cluster.token_file()
        if not token.is_file():
            raise ValueError(f"{token}: no token; copy the one that `dali-mix serve` names on the pool's machine")
        cluster.import_ray(token, loopback=host == cluster.LOOPBACK)
        self._folder = Path(tempfile.mkdtemp(prefix="dali_mix-"))
        self._launch(token, host, port)
        self._ray, _ = cluster.join(self.address)
        if self._head:
            self._make_pool()
            cluster.note_address(self.address)
        else:
            self._pool = self._ray.get_actor(cluster.POOL, namespace=cluster.NAMESPACE)
        self._make_workers()

    def _launch(self, token: Path, host: str, port: int) -> None:
        where = ["--head", f"--port={port}"] if self._head else [f"--address={host}:{port}"]
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block"),
            *("--num-cpus=0", "--disable-usage-stats", "--include-log-monitor=false"),
            f"--object-store-memory={self._store}",
            *(["--include-dashboard=false", f"--temp-dir={self._folder}"] if self._head else []),
            *(['--system-config={"automatic_object_spilling_enabled":false}'] if self._head else []),
            *([] if self._decode == "gpu" else ["--num-gpus=0"]),
            *([f"--node-ip-address={self._host}"] if self._head or self._listen else []),
        ]
        loopback = host == cluster.LOOPBACK
        environment = {**os.environ, **cluster.settings(token, loopback=loopback)}
        assert self._folder is not None
        log = self._folder / "ray.log"
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C is for us to pass on
                preexec_fn=_end_with_parent,
            )
        end = time.monotonic() + START
        while b"Ray runtime started" not in log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > end:
                text = log.read_text(errors="replace").strip().splitlines()
                raise ValueError(f"Ray did not start: {' '.join(text[-3:])}")
            time.sleep(0.1)

    def _make_pool(self) -> None:
        from dali_mix.service.pool import Pool

        options = {"name": cluster.POOL, "namespace": cluster.NAMESPACE, **self._here()}
        self._pool = self._ray.remote(Pool).options(**options).remote(int(SHARE_OF_STORE * self._store))

    def _here(self) -> dict[str, Any]:
        """Return the options of an actor that runs on this machine only, and is restarted there."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node = self._ray.get_runtime_context().get_node_id()
        return {
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": 0,  # trainers ask again themselves, another worker
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        }

    def _make_workers(self) -> None:
        from dali_mix.service.workers import LANES, Worker

        actor = self._ray.remote(Worker)
        gpu = {"num_gpus": 1} if self._decode == "gpu" else {}
        handles = [
            actor.options(**self._here(), **gpu, max_concurrency=LANES + 1).remote(self._decode, self._threads)
            for _ in range(self._count)
        ]
        try:
            facts = self._ray.get([handle.describe.remote() for handle in handles], timeout=START)
        except self._ray.exceptions.RayError as error:
            lack = "; are there so many free GPUs?" if self._decode == "gpu" else ""
            raise ValueError(f"the workers did not start{lack}: {error}") from None
        for handle, own in zip(handles, facts, strict=True):
            self._members[f"{own['host']}:{own['pid']}"] = handle, own
        if self._members and (why := self._ray.get(self._pool.register.remote(self._members), timeout=30)):
            raise ValueError(f"these workers do not fit the pool at {self.address}: {why}")

    def beat(self) -> str:
        """Tell the pool of this machine's workers, in case it was restarted. Return what is wrong, or ""."""
        if self._process is not None and self._process.poll() is not None:
            return "Ray has ended on this machine"
        if not self._head and not cluster.reachable(*cluster.split_address(self.address)):
            return f"the pool at {self.address} is gone"
        with contextlib.suppress(self._ray.exceptions.RayError):
            if self._members:
                self._ray.get(self._pool.register.remote(self._members), timeout=5)
        return ""

    def status(self) -> dict[str, Any]:
        """Return the pool's status: see `pool.Pool.status`."""
        return self._ray.get(self._pool.status.remote(), timeout=10)

    def _end(self) -> None:
        if self._head:
            cluster.forget_address(self.address)
        if self._ray is not None:
            with contextlib.suppress(Exception):  # whatever is left ends with Ray's processes
                if self._pool is not None and not self._head:
                    self._ray.get(self._pool.remove.remote(list(self._members)), timeout=2)
            with contextlib.suppress(Exception):
                self._ray.shutdown()
        if self._process is not None:
            _stop(self._process)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _end_with_parent() -> None:
    """In the child before it runs: have it told to end when this process dies, even by SIGKILL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes], kill: Callable[[int, int], None] = os.killpg) -> None:
    """End Ray's processes on this machine: all are in the group of the one that was started."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP)
    with contextlib.suppress(ProcessLookupError):
        kill(process.pid, signal.SIGKILL)
    process.wait()


def store_bytes(wanted: int | None) -> int:
    """Return the bytes of shared memory to use. Raise ValueError if there are too few."""
    system = os.statvfs("/dev/shm")
    free = system.f_bavail * system.f_frsize
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    store = min(int(0.25 * pages), int(0.8 * free)) if wanted is None else wanted
    if store < LEAST_STORE or store > free:
        raise ValueError(
            f"/dev/shm has {free >> 20} MB free, the pool wants {max(store, LEAST_STORE) >> 20}: give the container"
            " more shared memory (docker run --shm-size=4g; on Kubernetes an emptyDir with medium Memory), or ask for"
            " less with --memory"
        )
    return store
