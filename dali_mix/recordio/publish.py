"""Publish the files of a set atomically. The manifest is renamed last; the set exists once its manifest does.

    .PREFIX.lock         locked while the set is written; the lock ends with its process
    .NAME.partial        the new files while they are written
    .NAME.8_HEX.partial  another machine's attempt to write a new file, or the mark of `SetWriter.mark_folder`
    .PREFIX.publishing   the journal, written before the first rename: {"new": names, "old": names to be removed}
    .NAME.kept           hard links to an older set's files, to undo renames that fail

Publishing has five steps:

1. Write the journal.
2. Remove the old manifest.
3. Rename the new files, their manifest last.
4. Remove the files that only the old set had.
5. Remove the journal.

Invariant: if there is a manifest, the set is complete; otherwise the journal lists the files that have final names. The
next packer for the prefix can therefore remove what a killed packer left: partial files, and new files in the journal
that have no partial file, since these were renamed.

If a packer is killed while it replaces a set, the next one records the remaining files of the old set as abandoned, in
"old" of the journal. Until a new set is published, they may be replaced without `force`, as the user already allowed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from dali_mix._files import open_new, sync
from dali_mix.recordio.manifest import SUFFIXES, FileInfo, manifest_path, read_info, set_prefix
from dali_mix.recordio.part import write_errors

_TRY = re.compile(r"\.[0-9a-f]{8}$")
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Publication:
    """A context manager that writes the files of the set `prefix` under temporary names and publishes them together.

        with Publication(prefix) as files:
            files.write(…)
            files.publish(…)

    Leaving the block without `publish` removes all partial files and leaves an existing set unchanged.

    Raise ValueError if `prefix` is a folder. On entering the block, raise OSError if the parent folder cannot be
    created or written to, or if another packer is writing the set. `check_free` raises FileExistsError for an existing
    set.
    """

    def __init__(self, prefix: str | os.PathLike[str], *, force: bool = False) -> None:
        self.prefix = set_prefix(prefix)
        self.force = force
        if not self.prefix.name or self.prefix.is_dir():
            raise ValueError(f"{prefix}: a folder, not the prefix of a set; write for example {self.prefix / 'train'}")
        self.folder = self.prefix.parent
        self._abandoned: set[str] = set()
        self._lock = -1
        self._lock_path = self.folder / f".{self.prefix.name}.lock"
        self._journal = self.folder / f".{self.prefix.name}.publishing"

    def __enter__(self) -> Publication:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise OSError(f"{self.prefix}: {self.folder} is a file, not a folder; choose another prefix") from None
        except OSError as error:
            raise OSError(
                f"{self.prefix}: the folder {self.folder} cannot be created: {error.strerror}; choose another prefix"
            ) from None
        self._acquire()
        try:
            self._recover()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path in self._partials():
            path.unlink(missing_ok=True)
        self._release()

    def check_free(self, names: list[str]) -> None:
        """Raise FileExistsError if one of `names` is a folder, or an existing file that may not be replaced.

        With `force`, every file may be replaced. Without it, only the remains of an older set that a killed packer was
        replacing may be replaced.
        """
        for name in names:
            if (self.folder / name).is_dir():
                raise FileExistsError(f"{self.folder / name} is a folder; remove it, or choose another prefix")
            if (self.folder / name).exists() and not self.force and name not in self._abandoned:
                raise FileExistsError(f"{self.folder / name} exists; pass --force to replace it, or another prefix")

    def partial(self, name: str) -> Path:
        """Return the temporary path of the file that will be published as `name`."""
        return self.folder / f".{name}.partial"

    def write(self, name: str, content: bytes) -> FileInfo:
        """Write the partial file of `name`; return its description for the manifest."""
        with write_errors(self.partial(name)), open_new(self.partial(name)) as file:
            file.write(content)
        return FileInfo.of(name, content)

    def replace(self, name: str, content: bytes) -> None:
        """Write a file of a published set, such as its index, and replace the old file atomically."""
        self.write(name, content)
        with write_errors(self.folder / name):
            sync(self.partial(name))
            self.partial(name).replace(self.folder / name)
            sync(self.folder)

    def publish(self, names: list[str], *, remove_old: bool = True) -> None:
        """Rename the partial files of `names` to their final names, in order; the last one is the manifest.

        With `remove_old`, also remove files of an older set of this prefix that the new set does not have. If a rename
        fails, raise OSError and restore the older set (on file systems with hard links).
        """
        for name in names:
            sync(self.partial(name))
        old = self._old_names() | self._abandoned if remove_old else set()
        self._note(names, old)
        kept = self._keep(names)
        try:
            # The old manifest goes first: no set is better than a mixed one.
            (self.folder / names[-1]).unlink(missing_ok=True)
            for name in names:
                self.partial(name).replace(self.folder / name)
        except OSError:
            self._put_back(names, kept)
            raise
        sync(self.folder)
        for name in old - set(names):
            (self.folder / name).unlink(missing_ok=True)
        self._journal.unlink()

    def _note(self, new: list[str], old: set[str]) -> None:
        """Write the journal atomically: names of files to be renamed (`new`), and to be removed afterwards (`old`)."""
        aside = self._journal.with_name(self._journal.name + ".new")
        try:
            with open_new(aside, "w", "utf-8") as file:
                file.write(json.dumps({"new": new, "old": sorted(old)}))
            sync(aside)
            aside.replace(self._journal)
        finally:
            aside.unlink(missing_ok=True)
        sync(self.folder)

    def _kept(self, name: str) -> Path:
        return self.folder / f".{name}.kept"

    def _keep(self, names: list[str]) -> list[str]:
        """Hard-link the files of an older set to `.NAME.kept`, to restore them on failure. Return the names linked."""
        kept = []
        for name in names:
            with suppress(OSError):  # missing, or a file system without hard links
                os.link(self.folder / name, self._kept(name), follow_symlinks=False)
                kept.append(name)
        return kept

    def _put_back(self, names: list[str], kept: list[str]) -> None:
        """Undo the renames of a failed publication.

        Restore the files in `kept`, the manifest last, and remove other files that have been renamed. Remove the
        journal, unless it lists abandoned files.
        """
        for name in names:
            if name in kept:
                self._kept(name).replace(self.folder / name)
            elif not self.partial(name).exists():  # already renamed to a name that was free
                (self.folder / name).unlink(missing_ok=True)
        if not self._abandoned:
            self._journal.unlink(missing_ok=True)

    def _old_names(self) -> set[str]:
        """Return the names of the existing set's files except its manifest; empty if there is no valid manifest.

        `publish` removes those that the new set does not replace, such as surplus shards.
        """
        try:
            info = read_info(manifest_path(self.prefix))
        except (OSError, ValueError):
            return set()
        names = {part.name for part in info.parts} | {info.index.name, info.table.name}
        return {name for name in names if self._is_ours(name)}

    def _recover(self) -> None:
        if self._journal.exists():
            manifest = self.prefix.name + ".json"
            try:
                journal = json.loads(self._journal.read_bytes())
                new, old = ([name for name in journal[key] if name == Path(name).name] for key in ("new", "old"))
            except (ValueError, TypeError, LookupError):
                new, old = [], []  # killed while writing the journal: nothing had been renamed yet
            if (self.folder / manifest).exists():
                if manifest in new and not self.partial(manifest).exists():
                    for name in set(old) - set(new):  # the new set is complete, only the cleanup was interrupted
                        (self.folder / name).unlink(missing_ok=True)
            else:
                for name in new:
                    if self.partial(name).exists():  # the file under this name belongs to the old set
                        old.append(name)
                    else:  # already renamed, into a set that was never completed
                        (self.folder / name).unlink(missing_ok=True)
                killed = self._journal.stat().st_mtime_ns
                present = [name for name in old if (self.folder / name).exists()]  # newer files are not the old set's
                self._abandoned = {name for name in present if (self.folder / name).stat().st_mtime_ns <= killed}
            if self._abandoned:
                self._note([], self._abandoned)
            else:
                self._journal.unlink()
        for path in self._partials():
            path.unlink(missing_ok=True)

    def _partials(self) -> list[Path]:
        hidden = (path for path in self.folder.iterdir() if path.suffix in (".partial", ".kept"))
        return [path for path in hidden if path.name[0] == "." and self._is_ours(_TRY.sub("", path.stem[1:]))]

    def _is_ours(self, name: str) -> bool:
        """Return True if `name` is a file of this set, not of a set with a longer prefix."""
        rest = name.removeprefix(self.prefix.name)
        return rest != name and (rest in SUFFIXES or re.fullmatch(r"-\d{5}\.rec", rest) is not None)

    def _acquire(self) -> None:
        while True:
            try:
                self._lock = os.open(self._lock_path, _LOCK, 0o644)
            except OSError as error:
                raise OSError(
                    f"{self.prefix}: cannot write into {self.folder}: {error.strerror}; choose another prefix"
                ) from None
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(self._lock).st_ino == self._lock_path.stat().st_ino:
                    return
            except BlockingIOError:
                os.close(self._lock)
                raise OSError(
                    errno.EBUSY,
                    f"{self.prefix}: another packer is writing this set; wait for it, or choose another --out",
                ) from None
            except FileNotFoundError:
                pass  # the previous holder removed the file between our opening and locking it
            os.close(self._lock)

    def _release(self) -> None:
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)


def new_try(partial: Path) -> Path:
    """Return a path, unique across machines, for one attempt to write the file `partial`.

    `Publication` removes such files when its block is entered and when it is left.
    """
    return partial.with_name(f"{partial.stem}.{secrets.token_hex(4)}{partial.suffix}")
