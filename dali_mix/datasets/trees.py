"""Sources of a dataset's files: a folder, an archive (`archives`) or memory.

Files are read by relative name. Names that are absolute or contain `..` are rejected, and so are symbolic links to
files outside the root, unless links may be followed. Decompression bombs are rejected too.

More than 300 lines: the sources, and the checks that keep every name inside the root.
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from dali_mix._text import composed, printable
from dali_mix.datasets.no_data import no_data

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".pnm", ".gif", ".tif", ".tiff", ".jpe", ".jfif")
)


class Tree(ABC):
    """The files of a dataset, read and listed by relative names with forward slashes.

    Files that are not data (`no_data`) are not listed, but can be read. Files that are generated on demand
    (`MemoryTree`) are not listed either.
    """

    root: str  # name of the tree in messages

    def __init__(self) -> None:
        self.left_out: dict[str, str] = {}  # files and folders that are not data: path → category
        self._composed: dict[str, dict[str, str]] = {}

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raise FileNotFoundError if it is missing, ValueError if it cannot be read. The message names the file.
        """

    def read_needed(self, name: str) -> bytes:
        """Return the content of a required file. Raise the errors of `read`, with advice if the file is missing."""
        try:
            return self.read(name)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; fetch it, or correct --root") from None

    def read_into(self, name: str, room: Callable[[int], memoryview]) -> bytes | memoryview:
        """Return the content of a file, read into a buffer of the caller if possible. Raise the errors of `read`.

        `room(size)` must return a writable buffer of `size` bytes, of which the filled part is returned. A tree that
        cannot read into a buffer does not call `room`.
        """
        return self.read(name)

    def opening(self) -> tuple[Path, bool]:
        """Return the arguments of `open_tree` that reopen this tree on another machine.

        Raise ValueError if that is impossible.
        """
        raise ValueError(f"{self.root}: these images are made in memory here: pack them without --cluster")

    def exists(self, name: str) -> bool:
        """Return True if a file or folder of this name exists."""
        return False

    def missing(self, names: Sequence[str]) -> list[int]:
        """Return the indices of the `names` without a file, ignoring differences in Unicode normalization."""
        return []

    def folders(self, name: str = "") -> list[str]:
        """Return the names of the direct subfolders of folder `name`, sorted."""
        return []

    def walk(self, name: str = "") -> Iterator[str]:
        """Return the relative names of the data files in folder `name` and below, sorted within each folder."""
        return iter(())

    def count_left_out(self) -> dict[str, int]:
        """Return category → number of the files and folders seen so far that are not data."""
        return dict(sorted(Counter(self.left_out.values()).items()))

    def images(self, name: str = "") -> list[str]:
        """Return the relative names of the files in folder `name` and below for which `is_image` is True."""
        return [file for file in self.walk(name) if is_image(file)]

    def _alike(self, names: Callable[[], Iterable[str]], wanted: str, key: str = "") -> str | None:
        """Return the item of `names()` that differs from `wanted` only in Unicode normalization, or None.

        Return None if several items do. The items are cached under `key`, so `names()` is called once per `key`.
        """
        if wanted.isascii():
            return None
        if key not in self._composed:
            found: dict[str, str] = {}
            for name in names():
                if not name.isascii():  # if two match, neither is used
                    found[composed(name)] = "" if composed(name) in found else name
            self._composed[key] = found
        return self._composed[key].get(composed(wanted)) or None

    def dangles(self, name: str) -> bool:
        """Return True for a dangling symbolic link."""
        return False

    def where(self, name: str = "") -> str:
        """Return the path of file `name`, or of the root, for messages, with control characters escaped."""
        return printable(f"{self.root}/{name}" if name else self.root)


def is_image(name: str) -> bool:
    """Return True if a file has an image suffix and is not hidden."""
    return not name.rpartition("/")[2].startswith(".") and suffix_of(name) in IMAGE_SUFFIXES


def suffix_of(name: str) -> str:
    """Return a file's lowercase suffix with its dot, or "" if it has none."""
    _, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return (dot + suffix).lower() if dot else ""


def check_name(name: str, root: str, where: str = "") -> str:
    """Return `name` with forward slashes and without "." components.

    Raise ValueError if `name` is empty or absolute, or contains ".." or a null byte. The message begins with `where`,
    and names `root` as the folder that `name` must be in.
    """
    tidy = name.replace("\\", "/")
    parts = PurePosixPath(tidy).parts
    if not parts or tidy.startswith("/") or ".." in parts or "\0" in tidy or (len(tidy) > 1 and tidy[1] == ":"):
        begin = f"{where}: " if where else ""
        raise ValueError(f"{begin}{name!r} is not a path below {root}: absolute paths and '..' are refused")
    return "/".join(parts)


class FolderTree(Tree):
    """A folder on disk.

    Symbolic links are followed if their target is inside the folder, or anywhere with `follow_links`. `walk` skips a
    link to a parent folder.

    Raise FileNotFoundError if `root` is not a folder.
    """

    def __init__(self, root: str | os.PathLike[str], follow_links: bool = False) -> None:
        super().__init__()
        self.path = Path(root)
        self._follow_links = follow_links
        if not self.path.is_dir():
            raise FileNotFoundError(f"{root}: no such folder or archive; check --root")
        self.root = str(self.path)
        self._real = os.path.realpath(self.path)
        self._checked_folders: set[str] = set()

    def opening(self) -> tuple[Path, bool]:
        return self.path, self._follow_links

    def read(self, name: str) -> bytes:
        return bytes(self.read_into(name, lambda size: memoryview(bytearray(size))))

    def read_into(self, name: str, room: Callable[[int], memoryview]) -> memoryview:
        self._check_folder(name)
        path = f"{self.root}/{name}"
        try:
            try:
                descriptor = os.open(path, _READ | os.O_NOFOLLOW)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                self._check_real(path)
                descriptor = os.open(path, _READ)
        except FileNotFoundError:
            if other := self._normalized(name):
                return self.read_into(other, room)
            self._check_dangling(path)
            raise FileNotFoundError(f"{self.where(name)}: no such file") from None
        except OSError as error:
            raise ValueError(f"{self.where(name)}: cannot be read: {error.strerror}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{self.where(name)}: not a regular file")
            content = room(status.st_size)
            done = 0
            while done < len(content) and (count := os.readv(descriptor, [content[done:]])):
                done += count
            return content[:done]
        except OSError as error:
            raise ValueError(f"{self.where(name)}: cannot be read: {error.strerror}") from None
        finally:
            os.close(descriptor)

    def _normalized(self, name: str) -> str | None:
        """Return the existing name that differs from `name` only in Unicode normalization.

        Return None if there is none, if it is ambiguous, or if `name` itself exists. Raise the errors of `_check_real`
        for a folder in `name`.
        """
        found = ""
        for part in name.split("/"):
            folder = f"{self.root}/{found}"
            if not os.path.lexists(f"{folder}{part}"):
                self._check_real(folder)
                try:
                    other = self._alike(partial(os.listdir, folder), part, found)
                except OSError:
                    return None
                if other is None:
                    return None
                part = other
            found += part + "/"
        return None if found == name + "/" else found[:-1]

    def exists(self, name: str) -> bool:
        try:
            return (self.path / name).exists()
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return False
            raise

    def missing(self, names: Sequence[str]) -> list[int]:
        # List each folder once: on a network file system that is far faster than a stat of each file.
        rows_of: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            rows_of.setdefault(name.rpartition("/")[0], []).append(row)
        found = []
        for folder, rows in rows_of.items():
            try:
                with os.scandir(f"{self.root}/{folder}") as entries:
                    there = frozenset(entry.name for entry in entries)
            except OSError:  # files in it may still be readable
                there = frozenset()
            found += [row for row in rows if names[row].rpartition("/")[2] not in there and self._lacks(names[row])]
        return sorted(found)

    def _lacks(self, name: str) -> bool:
        try:
            return not os.path.lexists(f"{self.root}/{name}") and self._normalized(name) is None
        except ValueError:  # a link that points outside the root
            return False

    def dangles(self, name: str) -> bool:
        return _dangles(f"{self.root}/{name}")

    def folders(self, name: str = "") -> list[str]:
        self._check_real(f"{self.root}/{name}")
        found = []
        with os.scandir(self.path / name) as entries:
            for entry in entries:
                if not self._leaves_out(name, entry.name) and _is_folder(entry):
                    self._check_link(entry)
                    found.append(entry.name)
        return sorted(found)

    def _leaves_out(self, folder: str, name: str) -> bool:
        if kind := no_data(name):
            self.left_out[f"{folder}/{name}".lstrip("/")] = kind
        return kind is not None

    def walk(self, name: str = "") -> Iterator[str]:
        self._check_real(f"{self.root}/{name}")
        # a link to a parent folder is a cycle; its images belong to that folder, not to this one
        parts = name.split("/") if name else []
        above = [Path(self.root, *parts[:depth]).stat() for depth in range(len(parts))]
        yield from self._walk(name, frozenset((status.st_dev, status.st_ino) for status in above))

    def _walk(self, name: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        path = Path(self.root, name)
        status = path.stat()
        identity = status.st_dev, status.st_ino
        if identity in above:
            return  # a link to a parent folder
        self._checked_folders.add(name)
        with os.scandir(path) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
        for entry in entries:
            if self._leaves_out(name, entry.name):
                continue
            self._check_link(entry)
            inner = f"{name}/{entry.name}" if name else entry.name
            if _is_folder(entry):
                yield from self._walk(inner, above | {identity})
            else:
                yield inner

    def _check_link(self, entry: os.DirEntry[str]) -> None:
        if entry.is_symlink() and not _dangles(entry.path):  # a dangling link is refused when it is read
            self._check_real(entry.path)

    def _check_folder(self, name: str) -> None:
        """Raise ValueError if the folder of file `name` is outside the root, unless links may be followed.

        A folder that has passed is not checked again. The file itself may be a link, which `read_into` checks.
        """
        folder = name.rpartition("/")[0]
        if folder not in self._checked_folders:
            check_name(name, self.root)
            self._check_real(f"{self.root}/{folder}")
            self._checked_folders.add(folder)

    def _check_real(self, path: str) -> None:
        if self._follow_links:
            return
        real = os.path.realpath(path)
        if real != self._real and not real.startswith(self._real.rstrip("/") + "/"):
            self._check_dangling(path)
            raise ValueError(
                f"{printable(path)}: a symbolic link that leaves {self.root}; copy the files in, choose another"
                " --root, or pass --follow-links if its target is intended"
            )

    def _check_dangling(self, path: str) -> None:
        """Raise FileNotFoundError if `path`, or the first folder above it that exists, is a dangling link."""
        while len(path) > len(self.root) and not os.path.lexists(path):
            path = path.rpartition("/")[0]
        if _dangles(path):
            target = printable(str(Path(path).readlink()))
            raise FileNotFoundError(
                f"{printable(path)}: a dangling symbolic link: {target} does not exist; restore that file or folder, or"
                " remove the link"
            )


def _dangles(path: str) -> bool:
    return Path(path).is_symlink() and not Path(path).exists()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # False for a link to itself, for which DirEntry.is_dir raises
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


class MemoryTree(Tree):
    """Files generated on demand by `read(name)`, such as arrays that become images when packed."""

    def __init__(self, root: str, read: Callable[[str], bytes]) -> None:
        super().__init__()
        self.root = root
        self._read = read

    def read(self, name: str) -> bytes:
        return self._read(name)
