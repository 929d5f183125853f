"""Writes a lost or changed .idx anew, from the table: the manifest and all it holds stay as they are."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from dali_mix.recordio.index import index_bytes
from dali_mix.recordio.manifest import SetInfo, open_table, read_info
from dali_mix.recordio.publish import Publication, sync
from dali_mix.recordio.writer import saying


def reindex(prefix: str | os.PathLike[str]) -> SetInfo:
    """Replaces the .idx of the set `prefix` by the one its manifest was written with, byte for byte, and nothing else.

    Raises FileNotFoundError or ValueError when manifest or table are missing or damaged, or when the set was adopted
    with an index whose keys or order were another program's.
    """
    base = Path(prefix)
    info = read_info(base.with_name(base.name + ".json"))
    path, table_path = base.parent / info.index.name, base.parent / info.table.name
    table = open_table(table_path, info.count)
    beyond = bool((table["part"] >= len(info.parts)).any())
    content = b"" if beyond else index_bytes(table, [part.size for part in info.parts])
    if hashlib.sha256(content).hexdigest() != info.index.sha256:
        if hashlib.sha256(table_path.read_bytes()).hexdigest() != info.table.sha256:
            raise ValueError(f"{table_path}: changed, so the index cannot be made from it; copy it again or pack again")
        raise ValueError(
            f"{path}: was another program's, with keys or an order of its own, which the table does not hold: copy it"
            " again, or run `dali-mix adopt` with --reindex --force, and --classes for the names"
        )
    with Publication(base, force=True) as files:
        partial = files.partial(info.index.name)
        with saying(path):
            partial.write_bytes(content)
            sync(partial)
            partial.replace(path)
            sync(base.parent)
    return info
