"""`code_digest`: the digest of source files; two commits of one version differ in it."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def code_digest(*names: str) -> str:
    """Return a shortened sha256 of the source files of packages and modules, as they are at the first call.

    It depends neither on where they are installed, nor on line endings, nor on what editors leave beside them.
    """
    digest = hashlib.sha256()
    for module in names:
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None
        file = Path(spec.origin)
        files = [file] if spec.submodule_search_locations is None else sorted(file.parent.rglob("*.py"))
        for path in files:
            name = path.relative_to(file.parent).with_suffix("")
            if all(part.isidentifier() for part in name.parts):  # else nothing can import it: ".#lock.py"
                digest.update(name.as_posix().encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n"))
    return f"sha256 {digest.hexdigest()[:16]}"
