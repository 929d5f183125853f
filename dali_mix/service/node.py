"""`Node`, this machine's part of a pool: Ray's processes, the workers and, on the head machine, the pool's actor.

    dali-mix serve ─┬─ ray_node.py            this machine's Ray processes, which end with it
                    ├─ pool                    on the first machine
                    └─ worker, worker, …       on every machine

Workers end when the process that started them ends, for any reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dali_mix.service import cluster

LEAST_STORE = 160 << 20  # bytes of shared memory: enough for the windows of two trainers
SHARE_OF_STORE = 0.5  # share of it for cached answers; the rest is for answers in flight
START = 60.0  # seconds for Ray to start
STOP = 10.0  # seconds for Ray to end
HEAD_GONE = 12.0  # seconds without the head until this node ends; its trainers report it earlier


class Node:
    """This machine's part of a pool: Ray's processes, the workers and, on the head machine, the pool's actor.

    It is a context manager that starts these processes, and ends them on exit. Inside the block, call `heartbeat` about
    once a second.

    The constructor raises ValueError for an invalid address, or for a `store` that is too small or does not fit.
    `__enter__` raises ValueError, with advice, if the pool cannot be started or joined.

    Args:
        workers: number of worker processes on this machine; 0 for a machine that only trains.
        threads: DALI threads for each question that a worker processes concurrently.
        decode: "cpu" or "gpu"; with "gpu" each worker uses one GPU.
        address: address of the pool to join; None to start one.
        listen: the address by which other machines reach this one; None for the loopback device.
        port: the port of the pool to start.
        store: bytes of shared memory for images; None for the default of `store_bytes`.
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
        self._listen = listen if listen is None else cluster.listening(listen)
        joined = f"{self._listen or cluster.LOOPBACK}:{port}" if address is None else address
        self.address = "{}:{}".format(*cluster.split_address(joined))
        self._noted = False
        self._store = store_bytes(store)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = -1
        self._folder = self._node = ""
        self._gone: float | None = None  # when the head stopped answering
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
        if not self._head:
            cluster.check_pool(host, port)
        token = cluster.make_token() if self._head else cluster.find_token()
        cluster.import_ray(token, loopback=host == cluster.LOOPBACK)
        self._node = self._launch(token, host, port)
        self._ray, _ = cluster.join(self.address)
        if self._head:
            from dali_mix.service.pool import Pool

            options = {"name": cluster.POOL, "namespace": cluster.NAMESPACE, **self._here()}
            self._pool = self._ray.remote(Pool).options(**options).remote()
        else:
            self._pool = cluster.pool_actor(self._ray, self.address)
        self._make_workers()
        if self._head:
            cluster.note_address(self.address)
            self._noted = True

    def _launch(self, token: Path, host: str, port: int) -> str:
        """Start `ray_node.py`, which runs Ray's processes, and return the node's id once they run.

        `host` and `port` are those of the pool. The process, its log and its folder are stored for `_end`, which cleans
        them up. Raise ValueError if Ray has not started within `START` seconds, or has ended.
        """
        loopback = host == cluster.LOOPBACK
        self._folder = tempfile.mkdtemp(prefix="dali_mix-", dir="/tmp")  # socket paths are limited to 107 bytes
        params: dict[str, Any] = {
            "node_ip_address": self._listen or (cluster.LOOPBACK if loopback else cluster.own_address(host, port)),
            "num_cpus": 0,
            **({} if self._decode == "gpu" else {"num_gpus": 0}),
            "object_store_memory": self._store,
            "include_log_monitor": False,
            "temp_dir": self._folder,
            "min_worker_port": 0,  # any port
            "max_worker_port": 0,
        }
        if self._head:
            params |= {"gcs_server_port": port, "no_monitor": True, "include_dashboard": False}
            params |= {"_system_config": {"automatic_object_spilling_enabled": False}}
        else:
            params["gcs_address"] = self.address
        settings = json.dumps({"parent": os.getpid(), "head": self._head, "params": params})
        self._log = os.memfd_create("ray")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("ray_node.py")), settings],
            env={**os.environ, **cluster.settings(token, loopback=loopback)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C must not reach Ray directly
        )
        end = time.monotonic() + START
        while not (node := re.search(r"^node (\w+)\n", self._output(), re.MULTILINE)):
            if self._process.poll() is not None or time.monotonic() > end:
                output = " ".join(self._output().strip().splitlines()[-3:])
                raise ValueError(
                    f"Ray did not start: {output}" if self._head else cluster.why_not(self.address, token, output)
                )
            time.sleep(0.05)
        return node[1]

    def _output(self) -> str:
        """Return what Ray's processes have printed so far."""
        return os.pread(self._log, 1 << 20, 0).decode(errors="replace")

    def _here(self) -> dict[str, Any]:
        """Return the Ray options of an actor that runs, and is restarted, on this machine only."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return {
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": 0,  # trainers retry themselves, on another worker
            "scheduling_strategy": NodeAffinitySchedulingStrategy(self._node, soft=False),
        }

    def _make_workers(self) -> None:
        from dali_mix.service.workers import LANES, Worker

        options = {**self._here(), "max_concurrency": LANES + 1, **({"num_gpus": 1} if self._decode == "gpu" else {})}
        actor, begin = self._ray.remote(Worker), f"{socket.gethostname()}-{self._node[:6]}"
        handles = {
            name: actor.options(name=name, namespace=cluster.NAMESPACE, **options).remote(self._decode, self._threads)
            for name in (f"{begin}.{number}" for number in range(self._count))
        }
        try:
            details = self._ray.get([handle.describe.remote() for handle in handles.values()], timeout=START)
        except self._ray.exceptions.RayError as error:
            lack = "; are there so many free GPUs?" if self._decode == "gpu" else ""
            raise ValueError(f"the workers did not start{lack}: {error}") from None
        kept = {"node": self._node, "capacity": int(SHARE_OF_STORE * self._store)}
        for (name, handle), own in zip(handles.items(), details, strict=True):
            self._members[name] = handle, {**own, **kept}
        if self._members and (why := self._ray.get(self._pool.register.remote(self._members), timeout=30)):
            raise ValueError(f"these workers do not fit the pool at {self.address}: {why}")

    def heartbeat(self) -> str:
        """Register this machine's workers with the pool. Return "", or the reason why this node must end.

        The node must end if Ray has ended on this machine, or if the pool's head has not answered for `HEAD_GONE`
        seconds. Workers must be registered repeatedly: the pool removes those not registered for `pool.SILENT` seconds,
        and knows none after its own restart.
        """
        if self._process is not None and self._process.poll() is not None:
            return f"Ray has ended on this machine: {self._output().strip().rpartition(chr(10))[2]}"
        if not self._head and not cluster.reachable(*cluster.split_address(self.address)):
            self._gone = self._gone or time.monotonic()
            if time.monotonic() - self._gone > HEAD_GONE:
                return f"the pool at {self.address} is gone"
            return ""
        self._gone = None
        with contextlib.suppress(self._ray.exceptions.RayError):
            if self._members:
                self._ray.get(self._pool.register.remote(self._members), timeout=5)
        return ""

    def status(self) -> dict[str, Any]:
        """Return the pool's status: see `pool.Pool.status`."""
        return self._ray.get(self._pool.status.remote(), timeout=10)

    def _end(self) -> None:
        if self._noted:
            cluster.forget_address(self.address)
        elif self._members and not self._head and self._gone is None:
            with contextlib.suppress(Exception):  # the pool notices later
                self._ray.get(self._pool.remove.remote(list(self._members)), timeout=2)
        if self._ray is not None and cluster.reachable(*cluster.split_address(self.address)):  # else Ray waits for it
            self._ray.shutdown()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            os.close(self._log)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)  # if Ray's processes were killed, or never started


def store_bytes(wanted: int | None) -> int:
    """Return the number of bytes of shared memory to use.

    This is `wanted` or, if that is None, a quarter of the machine's memory, but at most 80% of what is free in
    /dev/shm. Raise ValueError if the result is less than `LEAST_STORE`, or more than is free in /dev/shm.
    """
    system = os.statvfs("/dev/shm")
    free = system.f_bavail * system.f_frsize
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    store = min(int(0.25 * pages), int(0.8 * free)) if wanted is None else wanted
    if store < LEAST_STORE or store > free:
        raise ValueError(
            f"/dev/shm has {free >> 20} MB free, the pool needs {max(store, LEAST_STORE) >> 20}: give the container"
            " more shared memory (docker run --shm-size=4g; on Kubernetes an emptyDir with medium Memory), or ask for"
            " less with --memory"
        )
    return store
