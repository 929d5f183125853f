"""Progress bars on the error stream, shown only if it is a terminal; what is printed meanwhile goes above them."""

from __future__ import annotations

import sys

from tqdm import tqdm


class Bar(tqdm):
    """A context with a progress bar over `total` things, which may be unknown (None) at first; `leave` keeps it."""

    def __init__(
        self, what: str, unit: str, total: int | None = None, *, shown: bool = True, leave: bool = False
    ) -> None:
        off = None if shown else True  # None: unless the error stream is a terminal
        super().__init__(total=total, desc=what, unit=unit, dynamic_ncols=True, leave=leave, disable=off)

    def reach(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        self.total = total
        self.update(done - self.n)

    def line(self, text: str) -> None:
        """Print a line to stdout, and count one more as done."""
        with tqdm.external_write_mode(file=sys.stdout):
            print(text)
        self.update()
