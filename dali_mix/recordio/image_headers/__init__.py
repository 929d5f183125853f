"""Image headers: format, size and orientation of a file without decoding it."""
