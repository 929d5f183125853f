"""Checkpoint files, and trained models loaded from them."""
