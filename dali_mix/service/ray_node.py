"""Standalone program, started by `Node`, that runs Ray's processes on this machine: `python -P ray_node.py SETTINGS`.

`ray start` is not used: it starts two unneeded processes (200 MB), one of them on a fixed port, may assign a port that
`--port` needs, and cannot join a pool on the loopback device.

The program imports nothing from dali_mix. It prints "node ID" once Ray runs. It exits on SIGTERM, when its parent dies
(even by SIGKILL) and when one of Ray's processes ends. It then kills all processes of its session and removes the
folder of their logs and sockets.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import time
from typing import Any

_PR_SET_PDEATHSIG = 1


def main(settings: dict[str, Any]) -> int:
    """Run Ray until SIGTERM, or until one of its processes ends, and return 0. If the parent is already gone, return 1.

    Before returning, kill the other processes of this session and remove Ray's folder.

    `settings` has `parent` (the parent's process id), `head` (True for a pool's first machine) and `params` (arguments
    of Ray's `RayParams`; `temp_dir` is Ray's folder).
    """
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        if os.getppid() != settings["parent"]:
            return 1
        from ray._private.node import Node
        from ray._private.parameter import RayParams

        # Ray's processes get SIGKILL when this one dies. Ray's own exit handler would wait for actors to end.
        node = Node(RayParams(**settings["params"]), head=settings["head"], shutdown_at_exit=False)
        print(f"node {node.node_id}", flush=True)
        while not stopped and not (dead := node.dead_processes()):
            time.sleep(0.1)
        if not stopped:
            print(*(f"{kind} ended with status {process.returncode}" for kind, process in dead), sep="; ", flush=True)
        node.kill_all_processes(check_alive=False, allow_graceful=True)
        return 0
    finally:
        _kill_session()
        shutil.rmtree(settings["params"]["temp_dir"], ignore_errors=True)


def _kill_session() -> None:
    """Kill the other processes of this session. A worker stopped by SIGSTOP does not notice that Ray has ended."""
    for name in os.listdir("/proc"):  # noqa: PTH208  # names, not paths
        with contextlib.suppress(OSError):
            if name.isdecimal() and int(name) != os.getpid() and os.getsid(int(name)) == os.getpid():
                os.kill(int(name), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
