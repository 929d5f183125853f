"""Signal handlers that are active for the duration of a `with` block.

Handlers nest: each level restores the previous one on exit, so the innermost handler is always active.

    cli.main        SIGINT    KeyboardInterrupt; ends at once while torch or DALI are imported
    commands.train  SIGTERM   before the first step: ends with status 75, nothing to save
    engine.run      both      the trainer's StopSignal: finish the step, save, end; a second SIGINT ends at once
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
    """Handle signals with `handler` in the block. Do nothing outside the main thread, where Python forbids it."""
    main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers if main_thread}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
