"""Trees of .zip and .tar files, and `open_tree`, which opens a folder or an archive."""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
import weakref
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dali_mix._text import printable
from dali_mix.datasets.no_data import no_data_in
from dali_mix.datasets.trees import FolderTree, Tree, check_name

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_MAX_RATIO = 100  # archives of images and of CIFAR's arrays unpack to less than twice their size
_MAX_UNPACKED = 256 << 20  # below this no ratio is suspicious


class _ArchiveTree(Tree):
    """Base class of the archive trees.

    While it opens the archive, a subclass must call `_register` for each file. This checks and indexes the file's name,
    and raises ValueError for an unsafe or duplicate name or a decompression bomb.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.root = str(path)
        self._packed = path.stat().st_size
        self._unpacked = 0
        self._files: list[str] = []
        self._no_data: dict[str, str] = {}
        self._known: set[str] = set()
        self._inside: dict[str, set[str]] = {"": set()}

    def _register(self, name: str, size: int) -> str:
        tidy = check_name(name, "the archive (do not trust it)", str(self.path))
        self._unpacked += size
        if self._unpacked > max(_MAX_UNPACKED, _MAX_RATIO * self._packed):
            raise ValueError(
                f"{self.path}: unpacks to more than {_MAX_RATIO} times its {self._packed:,} bytes (at"
                f" {printable(tidy)}): a decompression bomb; unpack it yourself if you trust it"
            )
        if tidy in self._known:
            raise ValueError(f"{self.path}: {printable(tidy)} occurs twice; pack the archive again, or unpack it")
        self._known.add(tidy)
        if found := no_data_in(tidy):
            self._no_data[found[0]] = found[1]
            return tidy
        self._files.append(tidy)
        folder = ""
        for part in tidy.split("/")[:-1]:
            self._inside[folder].add(part)
            folder = f"{folder}/{part}" if folder else part
            self._inside.setdefault(folder, set())
        return tidy

    def _found(self, name: str) -> str:
        """Return the indexed name that equals `name` or, if there is none, differs only in Unicode normalization.

        Raise FileNotFoundError if the archive has no such file.
        """
        found = name if name in self._known else self._alike_one(name)
        if found is None:
            raise FileNotFoundError(f"{self.where(name)}: not in the archive")
        return found

    def _alike_one(self, name: str) -> str | None:
        return self._alike(lambda: self._known, name)

    def exists(self, name: str) -> bool:
        return name in self._known or name in self._inside

    def missing(self, names: Sequence[str]) -> list[int]:
        return [row for row, name in enumerate(names) if name not in self._known and not self._alike_one(name)]

    def folders(self, name: str = "") -> list[str]:
        return sorted(self._inside.get(name, ()))

    def walk(self, name: str = "") -> Iterator[str]:
        start = f"{name}/" if name else ""
        self.left_out |= {path: kind for path, kind in self._no_data.items() if path.startswith(start)}
        self._files.sort()  # fast if they are already sorted
        return (file for file in self._files if file.startswith(start))


class ZipTree(_ArchiveTree):
    """A .zip file; several threads can read members at the same time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except Exception as error:  # damaged files raise struct.error, IndexError, UnicodeDecodeError, …
            raise ValueError(f"{path}: not a readable zip file: {_reason(error)}; fetch it again") from None
        weakref.finalize(self, self._zip.close)
        self._members: dict[str, zipfile.ZipInfo] = {}
        stated, found = _stated_count(path), len(self._zip.infolist())
        if stated not in (found & 0xFFFF, 0xFFFF):
            raise ValueError(f"{path}: {found:,} members where its end states {stated:,}: damaged; fetch it again")
        for member in self._zip.infolist():
            shown = printable(member.filename)
            if member.is_dir():
                if member.file_size:
                    raise ValueError(f"{path}: {shown} is a folder with content: damaged; fetch it again")
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                raise ValueError(f"{path}: {shown} is a symbolic link; unpack the archive yourself if you trust it")
            self._members[self._register(member.filename, member.file_size)] = member

    def opening(self) -> tuple[Path, bool]:
        return self.path, False

    def read(self, name: str) -> bytes:
        member = self._members[self._found(name)]
        try:
            with self._zip.open(member) as file:
                data = file.read(member.file_size + 1)
        except Exception as error:  # each codec raises its own errors: zlib.error, LZMAError, IndexError, …
            advice = "unpack it yourself with its password" if member.flag_bits & 1 else "fetch the archive again"
            raise ValueError(f"{self.where(name)}: cannot be unpacked: {_reason(error)}; {advice}") from None
        if len(data) != member.file_size:
            raise ValueError(f"{self.where(name)}: unpacks to a different size than the archive states; fetch it again")
        return data


def _stated_count(path: Path) -> int:
    """Return the number of members, modulo 2^16, that a zip file states in its end record.

    Return 0xFFFF if there is no complete end record. Since Python's zipfile ignores the number, `ZipTree` compares it
    with the members found.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16) - 22))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    return 0xFFFF if end < 0 or end + 12 > len(tail) else int.from_bytes(tail[end + 10 : end + 12], "little")


class _StrictInfo(tarfile.TarInfo):
    """A tar member's header.

    Reading a damaged or missing header raises tarfile.ReadError; tarfile alone silently treats it as the archive's end.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _StrictInfo:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # zero blocks mark the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"cut short or damaged at byte {tar.offset:,}: {error}") from None


class TarTree(_ArchiveTree):
    """A .tar, .tar.gz or .tgz file.

    Opening it copies all members to an unnamed temporary file, which exists as long as the tree.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._extents: dict[str, tuple[int, int]] = {}  # offset and size in the temporary file
        with self._spooling():
            self._spool = tempfile.TemporaryFile(prefix="dali_mix-")  # noqa: SIM115  # lives as long as the tree
        weakref.finalize(self, self._spool.close)
        last = ""
        try:
            with tarfile.open(path, "r|*", tarinfo=_StrictInfo) as tar:
                for member in tar:
                    shown = printable(member.name)
                    last = f" at {shown}"
                    if member.isdir():
                        continue
                    if not member.isreg():
                        raise ValueError(
                            f"{path}: {shown} is a link or device; unpack the archive yourself if you trust it"
                        )
                    self._spool_member(tar, member, self._register(member.name, member.size))
            with self._spooling():
                self._spool.flush()
        except Exception as error:  # damaged files raise zlib.error, LZMAError, EOFError, IndexError, …
            with suppress(OSError):
                self._spool.close()
            if str(error).startswith(f"{path}: "):
                raise
            raise ValueError(f"{path}: not a readable tar file{last}: {_reason(error)}; fetch it again") from None

    def _spool_member(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        start = self._spool.tell()
        source = tar.extractfile(member)
        assert source is not None  # a regular member
        while block := source.read(1 << 20):
            with self._spooling():
                self._spool.write(block)
        self._extents[name] = start, self._spool.tell() - start

    def opening(self) -> tuple[Path, bool]:
        check_slices(self.path)
        return super().opening()

    @contextmanager
    def _spooling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            folder = tempfile.tempdir or os.environ.get("TMPDIR", "/tmp")
            raise OSError(
                f"{self.path}: cannot be unpacked into the temporary folder {folder}: {error.strerror or error};"
                " free space there, or set TMPDIR to a folder that has some"
            ) from None

    def read(self, name: str) -> bytes:
        start, size = self._extents[self._found(name)]
        return os.pread(self._spool.fileno(), size, start)


def _reason(error: Exception) -> str:
    """Return the text of an OSError or ValueError. For other errors and empty texts, prefix the name of its class."""
    text = str(error)
    return text if isinstance(error, (OSError, ValueError)) and text else f"{type(error).__name__} {text}".strip()


def check_slices(path: Path) -> None:
    """Raise ValueError if `path` is a tar file, compressed or not. Called before packing on several machines.

    A tar file can only be read from its beginning, so several machines cannot each read a part of it.
    """
    if path.is_file() and path.name.lower().endswith(ARCHIVES) and path.suffix.lower() != ".zip":
        raise ValueError(
            f"{path}: a tar file is read from its beginning to its end, so several machines cannot share the work:"
            " unpack it into a folder, make a .zip of it, or pack without --cluster"
        )


def open_tree(root: str | os.PathLike[str], follow_links: bool = False) -> Tree:
    """Return the tree of a folder, or of a .zip, .tar, .tar.gz or .tgz file.

    `follow_links` is for folders only (see `FolderTree`).

    Raise FileNotFoundError if `root` does not exist. Raise ValueError if it is a damaged or unsafe archive, a file that
    is not an archive, or any file with `follow_links`. Raise OSError if a tar file cannot be unpacked into the
    temporary folder.
    """
    path = Path(root)
    if path.is_file():
        if follow_links:
            raise ValueError(f"{root}: --follow-links is for folders: leave it out, or unpack the archive")
        name = path.name.lower()
        if name.endswith(".zip"):
            return ZipTree(path)
        if name.endswith(ARCHIVES):
            return TarTree(path)
        raise ValueError(f"{root}: neither a folder nor a {', '.join(ARCHIVES)} file; check --root")
    return FolderTree(path, follow_links)
