"""Compute a digest of source files, to tell apart commits with the same version number."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def code_digest(*names: str) -> str:
    """Return a digest of the source files of the packages and modules `names`.

    The digest is "sha256 " and the first 16 hex digits of the SHA-256. It does not depend on the installation path, on
    line endings, or on files that cannot be imported, such as editors' lock files. It is cached for the same `names`,
    so changes to the files during the process are not noticed.
    """
    digest = hashlib.sha256()
    for module in names:
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None
        file = Path(spec.origin)
        files = [file] if spec.submodule_search_locations is None else sorted(file.parent.rglob("*.py"))
        for path in files:
            name = path.relative_to(file.parent).with_suffix("")
            if all(part.isidentifier() for part in name.parts):  # skip files that cannot be imported: ".#lock.py"
                digest.update(name.as_posix().encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n"))
    return f"sha256 {digest.hexdigest()[:16]}"
