"""CSV lists: a header and one line per image.

The header has the column `path`, optionally `id`, and the label columns, whose names are the classes of a multi-label
set. Separators are commas, semicolons (used by spreadsheets in many locales), tabs or vertical bars.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from dali_mix.datasets.base import decode_lines, first_double
from dali_mix.datasets.list_labels import Row, read_id
from dali_mix.datasets.mistakes import Mistakes

_SEPARATORS = ",;\t|"
_INDEX = re.compile(r"Unnamed: \d+|index|level_0|")  # names that pandas gives to an index column


def read_csv(data: bytes, where: str, mistakes: Mistakes) -> tuple[list[Row], list[str]]:
    """Return the rows of a CSV list, and notices on columns that are ignored because they are a pandas index.

    Columns with neither name nor content are ignored too. For a line with the wrong number of fields or an invalid id,
    an error is added to `mistakes`. Raise ValueError naming the line for text that is not UTF-8, invalid quoting, a
    missing `path` or label column, or an unnamed or duplicate column.
    """
    decode_lines(data, where)
    text = data.decode("utf-8-sig")
    heads = {separator: _head(next(_lines(text, separator, where), (1, [""]))[1]) for separator in _SEPARATORS}
    separator = next((separator for separator, head in heads.items() if "path" in head), ",")
    head = heads[separator]
    if "path" not in head or len(head) < 2:
        raise ValueError(
            f"{where}: line 1: a header with a column `path` and label columns was expected, not {head[:6]}"
        )
    named = [name for name in head if name]
    if double := first_double(named):
        raise ValueError(f"{where}: line 1: column {named[double[0]]!r} occurs twice; rename or remove one")
    lines: list[tuple[str, list[str]]] = []
    for number, fields in _lines(text, separator, where):
        with mistakes:
            if len(fields) != len(head):
                raise ValueError(f"{where}: line {number}: {len(fields)} fields where the header has {len(head)}")
            fields = [value if name == "path" else value.strip() for name, value in zip(head, fields, strict=True)]
            lines.append((f"{where}: line {number}", fields))
    lines = lines[1:]
    labels, notices = [], []
    for column, name in enumerate(head):
        if name in ("path", "id"):
            continue
        values = [fields[column] for _, fields in lines]
        if _INDEX.fullmatch(name) and _counts_rows(values):
            notices.append(f"{where}: column {column + 1} ({name!r}) numbers the rows (a pandas index): no class")
        elif name or any(values):
            labels.append(column)
    for column in labels:
        if not head[column]:
            raise ValueError(f"{where}: line 1: column {column + 1} has no name; name it, or remove it")
    if not labels:
        raise ValueError(f"{where}: line 1: no label column besides `path` in {head[:6]}; add one")
    columns = tuple(head[column] for column in labels)
    rows = []
    for spot, fields in lines:
        with mistakes:
            record_id = read_id(fields[head.index("id")], spot) if "id" in head else None
            label = tuple(fields[column] for column in labels)
            rows.append(Row(spot, fields[head.index("path")], label, record_id, columns))
    return rows, notices


def _head(names: list[str]) -> list[str]:
    """Return the column names without surrounding spaces.

    If no name is `path`, but exactly one differs from it only in case, such as PATH, this name and every spelling of
    `id`, such as ID, are lowercased.
    """
    names = [name.strip() for name in names]
    if "path" in names or [name.lower() for name in names].count("path") != 1:
        return names
    return [name.lower() if name.lower() in ("path", "id") else name for name in names]


def _lines(text: str, separator: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) for each row that is not empty. Raise ValueError for invalid quoting.

    Quoted fields may contain line breaks. The number is that of the row's last line.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise ValueError(f"{where}: line {reader.line_num}: {error}; check its quotes") from None


def _counts_rows(values: list[str]) -> bool:
    """Return True if all values are distinct non-negative integers."""
    return len(set(values)) == len(values) and all(value.isascii() and value.isdigit() for value in values)
