"""The record container: framing, reader, writer, manifest and verification."""
