"""Writes a lost or changed .idx again, from the table; the records, the labels and the class names stay as they are."""

from __future__ import annotations

import dataclasses
import hashlib
import os

from dali_mix._files import open_new
from dali_mix.recordio.index import index_bytes
from dali_mix.recordio.manifest import SetInfo, open_table, read_info, set_prefix
from dali_mix.recordio.part import write_errors
from dali_mix.recordio.publish import Publication, sync
from dali_mix.recordio.writer import bytes_info


def reindex(prefix: str | os.PathLike[str]) -> SetInfo:
    """Replace the .idx of the set `prefix` where it is not the one of its manifest.

    It is the same byte for byte, unless the set was adopted with an index of another program: its keys and order are
    in no other file, so the new one has the records' ids in the order of the files, and the manifest takes it over.
    Raises FileNotFoundError or ValueError when manifest or table are missing or damaged.
    """
    base = set_prefix(prefix)
    manifest = base.with_name(base.name + ".json")
    info = read_info(manifest)
    path, table_path = base.parent / info.index.name, base.parent / info.table.name
    table = open_table(table_path, info.count)
    with Publication(base, force=True) as files:
        beyond = bool((table["part"] >= len(info.parts)).any())
        content = b"" if beyond else index_bytes(table, [part.size for part in info.parts])
        index = bytes_info(path.name, content)
        if index != info.index and hashlib.sha256(table_path.read_bytes()).hexdigest() != info.table.sha256:
            raise ValueError(f"{table_path}: changed, so the index cannot be made from it; copy it again or pack again")
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == info.index.sha256:
            return info  # nothing is wrong with it; another program's keys are kept
        written = [(path, content)]
        if index != info.index:
            info = dataclasses.replace(info, index=index)
            written.append((manifest, info.to_json().encode()))
        for target, data in written:
            partial = files.partial(target.name)
            with write_errors(target):
                with open_new(partial) as file:
                    file.write(data)
                sync(partial)
                partial.replace(target)
                sync(base.parent)
    return info
