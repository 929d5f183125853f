"""Recipes on tiny-ImageNet."""
