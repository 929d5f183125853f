"""The record format: framing, reader, writer, manifest and verification.

Apart from other modules of dali_mix, this package depends only on the standard library and numpy.
"""

from dali_mix.recordio.block import Block
from dali_mix.recordio.header import pack_record, unpack_record
from dali_mix.recordio.image_headers.header import ImageHeader, read_image_header
from dali_mix.recordio.manifest import ENCODINGS, RECORD_DTYPE, FileInfo, SetInfo
from dali_mix.recordio.reader import RecordSet
from dali_mix.recordio.writer import Sample, SetWriter, write_set

__all__ = [
    "ENCODINGS",
    "RECORD_DTYPE",
    "Block",
    "FileInfo",
    "ImageHeader",
    "RecordSet",
    "Sample",
    "SetInfo",
    "SetWriter",
    "pack_record",
    "read_image_header",
    "unpack_record",
    "write_set",
]
