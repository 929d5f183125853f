"""`Worker`: the actor that decodes. It has no state that another worker could not rebuild."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import OrderedDict
from typing import Any

import torch

from dali_mix import pipelines
from dali_mix.loading.chunks import Chunk, Question
from dali_mix.loading.decoder import Decoder
from dali_mix.loading.workers import Spec
from dali_mix.recordio import RecordSet
from dali_mix.service.spec import code_of, key_of, versions

LANES = 2  # concurrent questions: one is decoded while another's answer is copied
SPECS = 4  # sets and pipelines kept open


class Worker:
    """A Ray actor that decodes. Concurrent questions have separate decoders, each with `threads` DALI threads."""

    def __init__(self, decode: str, threads: int) -> None:
        self.decode = decode
        self._device = torch.device("cuda", 0) if decode == "gpu" else torch.device("cpu")
        self._threads = threads
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[RecordSet, list[Decoder]]] = OrderedDict()

    def describe(self) -> dict[str, Any]:
        """Return the worker's details for the pool: a dict of "versions", "decode", "host" and "pid"."""
        return {
            "versions": versions(),
            "decode": self.decode,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }

    def describe_set(self, spec: Spec) -> dict[str, Any]:
        """Open the set on this machine and return a dict that describes it and the pipeline.

        The dict has "count", the number of records; "metainfo" and "taller", as in `RecordSet`; and "code", the result
        of `spec.code_of`. Raise OSError or ValueError, naming the machine, if the set cannot be opened, and ValueError
        if the pipeline cannot be built.
        """
        records = self._records(spec)
        code = code_of(self._pipeline(spec))
        return {"count": len(records), "metainfo": records.metainfo, "taller": records.taller, "code": code}

    def _pipeline(self, spec: Spec) -> pipelines.Pipeline:
        """Build the pipeline of `spec`. Raise ValueError, with advice to install its package here, if that fails.

        The trainer has already built the same pipeline, so it is likely that a package is missing on this machine.
        """
        try:
            return pipelines.build(spec.pipeline, spec.train, spec.options)
        except ValueError as error:
            cause = error.__cause__
            why = f"cannot import what pipeline {spec.pipeline!r} needs ({type(cause).__name__}: {cause})"
            if not isinstance(cause, ImportError):
                why = f"cannot build pipeline {spec.pipeline!r} ({error})"
            raise ValueError(
                f"the workers on {socket.gethostname()} {why}: install its package where workers run, and start them"
                " again"
            ) from None

    def _records(self, spec: Spec) -> RecordSet:
        try:
            return RecordSet(spec.prefix)
        except (OSError, ValueError) as error:
            raise type(error)(f"on the pool's machine {socket.gethostname()}: {error}") from None

    def answer(self, key: str, spec: Spec, fingerprint: str, question: Question) -> tuple[Chunk, dict[str, Any]]:
        """Decode the records of a question.

        Return the chunk, and a dict of its "bytes", the "seconds" it took, its number of "images" and this process's
        "pid".

        Raise ValueError if the set, the versions or the pipeline's code differ from those in `key` and `fingerprint`.
        """
        begun = time.monotonic()
        decoder = self._take(key, spec, fingerprint)
        chunk = decoder.answer(question)
        with self._lock:
            if key in self._open:
                self._open[key][1].append(decoder)
            else:
                decoder.close()
        return chunk, {
            "bytes": chunk.images.nbytes,
            "seconds": time.monotonic() - begun,
            "images": len(chunk.rows),
            "pid": os.getpid(),
        }

    def _take(self, key: str, spec: Spec, fingerprint: str) -> Decoder:
        with self._lock:
            if key not in self._open:
                records = self._records(spec)
                if records.fingerprint != fingerprint:
                    raise ValueError(
                        f"{spec.prefix} on {socket.gethostname()} (fingerprint {records.fingerprint[:16]}) is not the"
                        f" set that the pool opened ({fingerprint[:16]})"
                    )
                code = code_of(self._pipeline(spec))
                if key != key_of(spec, fingerprint, code):
                    files = ", ".join(sorted({file for file, _ in code.values()})) or "none of its own"
                    raise ValueError(
                        f"the worker on {socket.gethostname()} would decode differently from where the pool opened"
                        f" {spec.prefix}: its versions or the code of pipeline {spec.pipeline!r} differ (files here:"
                        f" {files}; versions here: {versions()}); make them equal and start it again"
                    )
                self._open[key] = records, []
                while len(self._open) > SPECS:
                    for decoder in self._open.popitem(last=False)[1][1]:
                        decoder.close()
            self._open.move_to_end(key)
            records, idle = self._open[key]
            if idle:
                return idle.pop()
        return Decoder.for_chunks(
            records,
            self._pipeline(spec),
            spec.seed,
            device=self._device,
            num_threads=self._threads,
            verify_crc=spec.verify_crc,
        )
