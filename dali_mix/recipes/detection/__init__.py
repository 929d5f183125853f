"""Recipes on sets with boxes."""
