"""Progress bars on stderr, shown only if stderr is a terminal. Lines printed with `Bar.line` appear above the bar."""

from __future__ import annotations

import sys

from tqdm import tqdm


class Bar(tqdm):
    """A progress bar over `total` items (None if not known yet).

    It is hidden if `shown` is False or stderr is not a terminal. If `leave` is True, it stays on screen after `close`.
    """

    def __init__(
        self, what: str, unit: str, total: int | None = None, *, shown: bool = True, leave: bool = False
    ) -> None:
        off = None if shown else True  # None: disabled unless stderr is a terminal
        super().__init__(total=total, desc=what, unit=unit, dynamic_ncols=True, leave=leave, disable=off)

    def reach(self, done: int, total: int) -> None:
        """Set the progress to `done` of `total` items."""
        self.total = total
        self.update(done - self.n)

    def line(self, text: str) -> None:
        """Print a line to stdout and advance the bar by one."""
        with tqdm.external_write_mode(file=sys.stdout):
            print(text)
        self.update()
