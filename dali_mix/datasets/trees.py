"""Where a dataset's files come from: a folder, a .zip or .tar file, or memory; read by relative name, never outside.

A name that would leave the root (`..`, an absolute path, a symbolic link) is refused, and so are archives built to fill
the disk.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
import tempfile
import weakref
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".pnm", ".gif", ".tif", ".tiff", ".jpe", ".jfif")
)
_MAX_RATIO = 100  # archives of images and of CIFAR's arrays unpack to less than twice their size
_MAX_UNPACKED = 256 << 20  # below this no ratio is suspicious


class Tree(ABC):
    """Files by relative name, with forward slashes. `root` says in messages where they are."""

    root: str

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file. Raises FileNotFoundError or ValueError naming it."""

    def read_needed(self, name: str) -> bytes:
        """As `read`, of a file without which there is no set: the message for one that is not there says what to do."""
        try:
            return self.read(name)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; fetch it, or correct --root") from None

    def read_into(self, name: str, room: Callable[[int], memoryview]) -> bytes | memoryview:
        """As `read`; where that saves a copy, into the memory that `room(size)` gives, whose beginning is returned."""
        return self.read(name)

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name."""

    @abstractmethod
    def folders(self, name: str = "") -> list[str]:
        """Plain names of the folders directly in folder `name`, sorted."""

    @abstractmethod
    def walk(self, name: str = "") -> Iterator[str]:
        """Relative names of all files in folder `name` and below, sorted within each folder."""

    def images(self, name: str = "") -> list[str]:
        """Relative names of the files below `name` that are called like images."""
        return [file for file in self.walk(name) if is_image(file)]

    def where(self, name: str = "") -> str:
        """The file as messages name it."""
        return f"{self.root}/{name}" if name else self.root


def is_image(name: str) -> bool:
    """Whether a file is called like an image; hidden files are not."""
    base = name.rpartition("/")[2]
    return not base.startswith(".") and base[base.rfind(".") :].lower() in IMAGE_SUFFIXES


def check_name(name: str, root: str) -> str:
    """Returns `name` tidied. Raises ValueError when it is absolute or climbs out of the root."""
    tidy = name.replace("\\", "/")
    parts = PurePosixPath(tidy).parts
    if not parts or tidy.startswith("/") or ".." in parts or "\0" in tidy or (len(tidy) > 1 and tidy[1] == ":"):
        raise ValueError(f"{name!r} is not a path below {root}: absolute paths and '..' are refused")
    return "/".join(parts)


class FolderTree(Tree):
    """A folder on disk. A symbolic link below it is followed as long as it stays below it, and a loop of links ends."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.path = Path(root)
        if not self.path.is_dir():
            raise FileNotFoundError(f"{root}: no such folder; check --root")
        self.root = str(self.path)
        self._real = os.path.realpath(self.path)
        self._checked_folders: set[str] = set()

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
            raise FileNotFoundError(f"{path}: no such file") from None
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{path}: not a regular file")
            content = room(status.st_size)
            done = 0
            while done < len(content) and (count := os.readv(descriptor, [content[done:]])):
                done += count
            return content[:done]
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
        finally:
            os.close(descriptor)

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def folders(self, name: str = "") -> list[str]:
        self._check_real(f"{self.root}/{name}")
        found = []
        with os.scandir(self.path / name) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_dir():
                    self._check_link(entry)
                    found.append(entry.name)
        return sorted(found)

    def walk(self, name: str = "") -> Iterator[str]:
        self._check_real(f"{self.root}/{name}")
        # a link back to any folder on the way here is a loop too: its images belong to that folder, not to this one
        parts = name.split("/") if name else []
        above = [Path(self.root, *parts[:depth]).stat() for depth in range(len(parts))]
        yield from self._walk(name, frozenset((status.st_dev, status.st_ino) for status in above))

    def _walk(self, name: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        path = Path(self.root, name)
        status = path.stat()
        identity = status.st_dev, status.st_ino
        if identity in above:
            return  # a link back to a folder we are in
        self._checked_folders.add(name)
        with os.scandir(path) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
        for entry in entries:
            self._check_link(entry)
            inner = f"{name}/{entry.name}" if name else entry.name
            if entry.is_dir():
                yield from self._walk(inner, above | {identity})
            else:
                yield inner

    def _check_link(self, entry: os.DirEntry[str]) -> None:
        if entry.is_symlink():
            self._check_real(entry.path)

    def _check_folder(self, name: str) -> None:
        """Checks each folder once; a file that is itself a link is found when it is opened."""
        folder = name.rpartition("/")[0]
        if folder not in self._checked_folders:
            check_name(name, self.root)
            self._check_real(f"{self.root}/{folder}")
            self._checked_folders.add(folder)

    def _check_real(self, path: str) -> None:
        real = os.path.realpath(path)
        if real != self._real and not real.startswith(self._real.rstrip("/") + "/"):
            raise ValueError(
                f"{path}: a symbolic link that leaves {self.root}; copy the files in, or choose another --root"
            )


class MemoryTree(Tree):
    """Files made on demand by `read(name)`: arrays that become images when packed."""

    def __init__(self, root: str, names: list[str], read: Callable[[str], bytes]) -> None:
        self.root = root
        self._names = names
        self._read = read

    def read(self, name: str) -> bytes:
        return self._read(name)

    def exists(self, name: str) -> bool:
        return name in self._names

    def folders(self, name: str = "") -> list[str]:
        return []

    def walk(self, name: str = "") -> Iterator[str]:
        yield from self._names


class _ArchiveTree(Tree):
    """What .zip and .tar have in common: names checked and indexed when opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = str(path)
        self._packed = path.stat().st_size
        self._unpacked = 0
        self._files: list[str] = []
        self._known: set[str] = set()
        self._inside: dict[str, set[str]] = {"": set()}

    def _register(self, name: str, size: int) -> str:
        try:
            tidy = check_name(name, "the archive")
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}; do not trust this archive") from None
        self._unpacked += size
        if self._unpacked > max(_MAX_UNPACKED, _MAX_RATIO * self._packed):
            raise ValueError(
                f"{self.path}: unpacks to more than {_MAX_RATIO} times its {self._packed:,} bytes (at {tidy}): a"
                " decompression bomb;"
                " unpack it yourself if you trust it"
            )
        if tidy in self._known:
            raise ValueError(f"{self.path}: {tidy} is in it twice; pack the archive again, or unpack it")
        self._known.add(tidy)
        self._files.append(tidy)
        return tidy

    def _finish(self) -> None:
        self._files.sort()
        self._inside = {"": set()}
        for name in self._files:
            parts = name.split("/")[:-1]
            for depth, part in enumerate(parts):
                self._inside.setdefault("/".join(parts[:depth]), set()).add(part)
                self._inside.setdefault("/".join(parts[: depth + 1]), set())

    def exists(self, name: str) -> bool:
        return name in self._known or name in self._inside

    def folders(self, name: str = "") -> list[str]:
        return sorted(folder for folder in self._inside.get(name, ()) if not folder.startswith((".", "__MACOSX")))

    def walk(self, name: str = "") -> Iterator[str]:
        start = f"{name}/" if name else ""
        return (file for file in self._files if file.startswith(start) and "__MACOSX/" not in file)


class ZipTree(_ArchiveTree):
    """A .zip file, read member by member from several threads."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ValueError(f"{path}: not a readable zip file: {error}; fetch it again") from None
        weakref.finalize(self, self._zip.close)
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            if member.is_dir():
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                raise ValueError(
                    f"{path}: {member.filename} is a symbolic link; unpack the archive yourself if you trust it"
                )
            self._members[self._register(member.filename, member.file_size)] = member
        self._finish()

    def read(self, name: str) -> bytes:
        try:
            member = self._members[name]
        except KeyError:
            raise FileNotFoundError(f"{self.where(name)}: not in the archive") from None
        try:
            with self._zip.open(member) as file:
                data = file.read(member.file_size + 1)
        except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError, EOFError) as error:
            raise ValueError(f"{self.where(name)}: cannot be unpacked: {error}; fetch the archive again") from None
        if len(data) != member.file_size:
            raise ValueError(f"{self.where(name)}: unpacks to another size than the archive says; fetch it again")
        return data


class TarTree(_ArchiveTree):
    """A .tar or .tar.gz, its members copied to an unnamed temporary file that vanishes with the process."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._spool = tempfile.TemporaryFile(prefix="dali_mix-")  # noqa: SIM115  # lives as long as the tree
        weakref.finalize(self, self._spool.close)
        self._places: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(path, "r|*") as tar:
                for member in tar:
                    if member.isdir():
                        continue
                    if not member.isreg():
                        raise ValueError(
                            f"{path}: {member.name} is a link or device; unpack the archive yourself if you trust it"
                        )
                    self._spool_member(tar, member, self._register(member.name, member.size))
        except (tarfile.TarError, EOFError, OSError) as error:
            self._spool.close()
            raise ValueError(f"{path}: not a readable tar file: {error}; fetch it again") from None
        except ValueError:
            self._spool.close()
            raise
        self._spool.flush()
        self._finish()

    def _spool_member(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        start = self._spool.tell()
        source = tar.extractfile(member)
        assert source is not None  # a regular member
        while block := source.read(1 << 20):
            self._spool.write(block)
        self._places[name] = start, self._spool.tell() - start

    def read(self, name: str) -> bytes:
        try:
            start, size = self._places[name]
        except KeyError:
            raise FileNotFoundError(f"{self.where(name)}: not in the archive") from None
        return os.pread(self._spool.fileno(), size, start)


def open_tree(root: str | os.PathLike[str]) -> Tree:
    """The tree of a folder, or of a .zip, .tar, .tar.gz or .tgz file."""
    path = Path(root)
    if path.is_file():
        if path.name.endswith(".zip"):
            return ZipTree(path)
        if path.name.endswith(ARCHIVES):
            return TarTree(path)
        raise ValueError(f"{root}: neither a folder nor a {', '.join(ARCHIVES)} file; check --root")
    return FolderTree(path)
