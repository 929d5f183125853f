"""Pipelines: what a task draws at random and its DALI graph."""
