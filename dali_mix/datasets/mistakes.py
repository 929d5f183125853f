"""Collect mistakes in annotations, so that packing reports them together before it writes anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from dali_mix._text import counted, printable
from dali_mix.datasets.trees import Tree

P = ParamSpec("P")
T = TypeVar("T")
SHOWN = 20  # mistakes listed in a message; the rest are counted


class Mistakes:
    """A collector of errors in individual lines, boxes or images.

    Inside `together`, errors are collected and raised at the end, several as one; outside, each is raised immediately.

        with mistakes.together(images=True):
            for line in lines:
                with mistakes:  # a ValueError or FileNotFoundError in this block is one mistake; the loop goes on
                    labels.append(parse(line))

    Items with a mistake are missing from the results, so code after the loop must tolerate gaps until `check` or
    `settle` has been called.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first: list[Exception] = []
        self._seen: set[int] = set()  # hashes of messages, since several passes over a file may find the same mistake
        self._collecting = self._images = False

    @contextmanager
    def together(self, images: bool) -> Iterator[None]:
        """Collect mistakes in the block and raise them at its end. If `images`, `settle` also adds missing images.

        If the block raises a ValueError or OSError after mistakes were collected, the mistakes are raised instead.
        """
        self._collecting, self._images = True, images
        try:
            yield
        except (ValueError, OSError):
            if not self.count:
                raise  # otherwise it may be a consequence of the mistakes, which are raised instead
        finally:
            self._collecting = False
        self.check()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not self._collecting or not isinstance(error, (ValueError, FileNotFoundError)):
            return False
        self.add(error)
        return True

    def add(self, error: Exception) -> None:
        """Collect an error, unless one with the same message was collected before. Outside `together`, raise it."""
        if not self._collecting:
            raise error
        key = hash(str(error))
        if key not in self._seen:
            self._seen.add(key)
            self.count += 1
            if len(self._first) < SHOWN:
                self._first.append(error)

    @property
    def still_shown(self) -> bool:
        """Return True if the next mistake will be shown, False if it will only be counted."""
        return len(self._first) < SHOWN

    def each(self, read: Callable[..., T], items: Iterable[tuple[object, ...]]) -> list[T]:
        """Return the results of `read(*item)` for all `items`.

        A call that raises ValueError or FileNotFoundError is a mistake and has no result.
        """
        found = []
        for item in items:
            with self:
                found.append(read(*item))
        return found

    def settle(self, tree: Tree, names: Sequence[str], places: Sequence[str]) -> None:
        """Add an error for each missing image if `together` was called with `images`, then raise like `check`.

        `places` are the file and line that list each name, for messages.
        """
        if self._images:
            for row in tree.missing(names):
                with self:
                    try:
                        tree.read(names[row])
                    except (ValueError, FileNotFoundError) as error:
                        raise unusable(error, tree.where(names[row]), places[row]) from None
        self.check()

    def check(self) -> None:
        """Raise the mistakes collected so far: a single one unchanged, several as one ValueError."""
        if self.count == 1:
            raise self._first[0] from None
        if self.count:
            lines = [printable(str(error)) for error in self._first]
            if self.count > len(lines):
                lines.append(f"… and {self.count - len(lines):,} more")
            raise ValueError("\n  ".join([f"{self.count:,} mistakes in the data set, nothing was packed:", *lines]))


def also(count: int, what: str) -> str:
    """Return the end of a message about a mistake that `count` more items share, such as " (as in 3 more rows)".

    `what` is the singular noun, such as "row". Return "" if `count` is 0.
    """
    return f" (as in {counted(count, f'more {what}', f'more {what}s')})" if count else ""


def unusable(error: Exception, where: str, place: str | None) -> Exception:
    """Return the error to raise for an image that cannot be used because of `error`.

    It is a FileNotFoundError if `error` is one, else a ValueError. The message begins with `where`, the path of the
    image, and names `place`, the file and line that list the image, unless this is None.
    """
    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
    listed = "" if place is None else f", listed at {place}"
    return kind(f"{beginning(str(error), where)}{listed} (--skip-bad leaves such images out)")


def beginning(message: str, where: str) -> str:
    """Return the message, prefixed by `where` unless it already is."""
    return message if message.startswith(where) else f"{where}: {message}"
