"""Image files: decode them, apply EXIF orientations to pixels and boxes, and resize or re-encode them for storage."""
