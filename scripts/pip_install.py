#!/usr/bin/env python3
"""Run `pip install` with the arguments of this script and show progress.

Print large downloads with their sizes and, after ten seconds without output, the time and disk space used so far.
The exit status is pip's.
"""

from __future__ import annotations

import queue
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterable

QUIET_FOR = 10.0  # seconds
DOWNLOAD = re.compile(r"\s*(?:Downloading|Using cached) (\S+) \((\d+(?:\.\d+)? [MG]B)\)")


def progress(line: str) -> str:
    """Return the text to show for a line of pip's output: a large download, the start of unpacking, or ""."""
    if found := DOWNLOAD.match(line):
        name, size = found.groups()
        name = name.rpartition("/")[2].partition("-cp")[0].partition("-py")[0]
        return f"  {name}  {size}" if size.endswith("GB") or float(size.split()[0]) >= 10 else ""
    if line.startswith("Installing collected packages:"):
        return f"  unpacking {line.count(',') + 1} packages"
    return ""


def show(lines: Iterable[str], used: int) -> None:
    """Print the progress of pip until its output `lines` ends.

    Print `progress(line)` of each line, if not empty, but full lines from the first line on that begins with "ERROR".
    After `QUIET_FOR` seconds without a print, print the elapsed time and the growth of disk use.

    used: bytes in use at the start, on the file system of the environment.
    """
    waiting: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in lines:
            waiting.put(line)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    start = shown = time.monotonic()
    failed = False
    while True:
        try:
            line = waiting.get(timeout=max(shown + QUIET_FOR - time.monotonic(), 0.0))
        except queue.Empty:
            grown = max(_used() - used, 0) / 1e9
            text = f"  … {time.monotonic() - start:.0f} s, {grown:.1f} GB on disk"
        else:
            if line is None:
                return
            failed = failed or line.startswith("ERROR")
            text = line.rstrip() if failed else progress(line)
        if text:
            print(text, flush=True)
            shown = time.monotonic()


def _used() -> int:
    return shutil.disk_usage(sysconfig.get_path("purelib")).used


def main(arguments: list[str]) -> int:
    """Run pip and return its exit status."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off"]
    used = _used()
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        show(process.stdout, used)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
