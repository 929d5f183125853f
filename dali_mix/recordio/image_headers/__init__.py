"""Read the format, size and orientation of an image file without decoding it."""
