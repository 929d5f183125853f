"""Ranks: the process group, how ranks find each other, and what must be equal on all of them."""
