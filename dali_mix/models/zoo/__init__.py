"""Bundled architectures."""
