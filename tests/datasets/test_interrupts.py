"""Ctrl-C between any two instructions of the main thread, while it hands work to other threads: the packer must end."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

HARNESS = """
import itertools, sys

class Ctrl:
    '''Raises KeyboardInterrupt before the `at`-th instruction inside calls of the functions named `inside`.'''
    def __init__(self, at, inside):
        self.left, self.inside, self.depth = at, inside, 0
    def trace(self, frame, event, _):
        if event == "call":
            if not self.depth and frame.f_code.co_name not in self.inside:
                return None
            self.depth += 1
            frame.f_trace_opcodes = True
        elif event == "return":
            self.depth -= 1
        elif event == "opcode" and self.left >= 0:
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.trace

def interrupted(at, inside, function):
    '''Whether `function` was interrupted; it must have come back.'''
    sys._getframe().f_trace_opcodes = True  # Python 3.12 asks when tracing begins
    sys.settrace(Ctrl(at, inside).trace)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False
"""

WRITER = """
import pathlib, tempfile
from dali_mix.recordio.part import Part

def fill():
    part = Part(pathlib.Path(folder, "part"))
    try:
        for _ in range(6):
            piece = memoryview(bytes(100))
            part.store(piece, part.place(piece))
        part.end()
    finally:
        part.close()

with tempfile.TemporaryDirectory() as folder:
    tries = next(at for at in itertools.count() if not interrupted(at, {"place", "store", "end"}, fill))
assert tries > 100, tries
"""

POOL = """
from dali_mix.datasets.packer import _in_turn

def run():
    jobs = ((number,) for number in range(8))
    assert list(_in_turn(lambda number: number, lambda number: [lambda: None], jobs, 2)) == list(range(8))

tries = next(at for at in itertools.count() if not interrupted(at, {"first", "<genexpr>"}, run))
assert tries > 100, tries
"""


@pytest.mark.parametrize("code", [WRITER, POOL], ids=["writer", "pool"])
def test_it_ends(code: str) -> None:
    source = textwrap.dedent(HARNESS) + code
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
