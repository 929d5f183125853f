"""Signal handlers that are active for the duration of a `with` block.

Blocks nest: each restores the previous handlers on exit, so the innermost handler of a signal is always active.

    cli.main        SIGINT    KeyboardInterrupt; ends at once while torch or DALI are imported
    commands.train  SIGTERM   outside engine.run's block: ends with status 75, nothing to save
    engine.run      both      the trainer's StopSignal: finish the step, save, end; a second SIGINT ends at once
    rendezvous      SIGTERM   ignored while this rank waits for other ranks to read its store
    commands.serve  both      ends this machine's part of the pool
    cli.launch      both      forwarded to the ranks
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def handled(
    handler: Callable[[int, FrameType | None], Any] | signal.Handlers, *numbers: signal.Signals
) -> Iterator[None]:
    """Install `handler` for the signals `numbers`, and restore their previous handlers at the end of the block.

    Outside the main thread, do nothing, since Python does not allow handlers to be installed there.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers if main_thread}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
