"""Pack and unpack payloads, which consist of mxnet's IRHeader, the label's floats and the encoded image."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dali_mix._labels import check_class
from dali_mix.recordio.framing import MAGIC_BYTES, magic_offsets

HEADER = struct.Struct("<IfQQ")  # flag, label, id, id2
MAX_FLOATS = 1 << 20  # a longer label is assumed to be damage

Label = float | int | Sequence[float] | np.ndarray


class Unpacked(NamedTuple):
    """The parts of a payload."""

    label: np.ndarray  # (flag,) float32, a view of the payload; (1,), a copy, for flag 0
    id: int
    encoded: np.ndarray  # (n,) uint8, a view of the payload


def pack_header(label: Label, record_id: int) -> bytes:
    """Return the bytes of a payload before the image.

    These are the header of 24 bytes and, if `label` is a sequence (flag = its length), four bytes for each float.

    Raise ValueError for:

    - an id that is not an unsigned 64-bit integer
    - a label that is NaN or infinite
    - a sequence that is empty, is not one-dimensional or has more than 2^20 floats
    - a class that is negative, fractional or above 2^24
    - a result that contains RecordIO's magic at a multiple of four bytes, which DALI's reader rejects
    """
    if not 0 <= record_id < 1 << 64:
        raise ValueError(f"id {record_id} does not fit an unsigned 64-bit number; ids count from 0")
    if isinstance(label, (int, float, np.integer, np.floating)):
        check_class(label)
        head = HEADER.pack(0, float(label), record_id, 0)
    else:
        floats = np.asarray(label, dtype="<f4")
        if floats.ndim != 1 or not 0 < floats.size <= MAX_FLOATS:
            raise ValueError(
                f"a label must be a class or a list of 1 to {MAX_FLOATS} floats, not of shape {floats.shape}"
            )
        if not np.isfinite(floats).all():
            raise ValueError(f"label field {int(np.flatnonzero(~np.isfinite(floats))[0]) + 1} is not a finite number")
        head = HEADER.pack(floats.size, 0.0, record_id, 0) + floats.tobytes()
    if MAGIC_BYTES in head and len(found := magic_offsets(head)):
        cause = f"id {record_id}" if found[0] < HEADER.size else "a label"
        raise ValueError(
            f"the header contains RecordIO's magic at byte {found[0]} ({cause}), which DALI's reader refuses;"
            " choose another id"
        )
    return head


def pack_record(label: Label, record_id: int, encoded: bytes) -> bytes:
    """Return the payload of an image, its label and its id. Raise the errors of `pack_header`.

    `label` is a class (flag 0) or a sequence of floats (flag = its length).
    """
    return pack_header(label, record_id) + encoded


def unpack_record(payload: memoryview | bytes) -> Unpacked:
    """Return the parts of a payload.

    Raise ValueError if it is shorter than its header, or if the header states more than 2^20 floats or more than fit
    into the payload.
    """
    if len(payload) < HEADER.size:
        raise ValueError(f"the payload has {len(payload)} bytes, fewer than the {HEADER.size} of its header")
    flag, label, record_id, _ = HEADER.unpack_from(payload)
    start = HEADER.size + 4 * flag
    if flag > MAX_FLOATS or start > len(payload):
        raise ValueError(f"the header claims {flag} label floats, more than a payload of {len(payload)} bytes holds")
    if flag:
        floats = np.frombuffer(payload, dtype="<f4", count=flag, offset=HEADER.size)
    else:
        floats = np.array([label], dtype="<f4")
    return Unpacked(floats, record_id, np.frombuffer(payload, dtype=np.uint8)[start:])
