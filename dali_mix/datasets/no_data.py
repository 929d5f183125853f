"""Recognize files and folders that are not data, created by operating systems, file servers and other programs."""

from __future__ import annotations

_HIDDEN = "._*", ".*"  # AppleDouble, and every other hidden name that is not listed
_LISTED = (
    *(".DS_Store", ".AppleDouble", ".AppleDB", ".Spotlight-V100", ".Trashes", ".TemporaryItems", ".fseventsd"),
    *("__MACOSX", "Icon\r", "Network Trash Folder", "Temporary Items"),  # macOS
    *("Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$RECYCLE.BIN", "RECYCLER"),  # Windows
    "System Volume Information",
    *("@eaDir", "@tmp", "#recycle", "#snapshot", "@SynoResource"),  # Synology
    *("@Recycle", "@Recently-Snapshot", "@__thumb", ".@__thumb"),  # QNAP
    *("lost+found", ".snapshot", ".thumbnails", ".directory"),  # Linux, NetApp
    *(".ipynb_checkpoints", "__pycache__", ".git", ".svn", ".dvc"),  # programs
    *(".picasa.ini", "Picasa.ini", ".picasaoriginals", ".stversions", ".stfolder", ".dropbox.cache"),
)
_NAMES = {name.casefold(): name.strip() for name in _LISTED}


def no_data(name: str) -> str | None:
    """Return the category of a file or folder that is not data, or None if it may be data.

    The category is the name in `_LISTED` that `name` equals, ignoring letter case. For any other hidden name, it is
    "._*" or ".*".
    """
    listed = _NAMES.get(name.casefold())
    if listed or not name.startswith("."):
        return listed
    return _HIDDEN[0] if name.startswith("._") else _HIDDEN[1]


def no_data_in(path: str) -> tuple[str, str] | None:
    """Return `path` up to its first component that is not data, and the category of that component.

    Return None if all components may be data.
    """
    end = 0
    for part in path.split("/"):
        end += len(part)
        if kind := no_data(part):
            return path[:end], kind
        end += 1
    return None
