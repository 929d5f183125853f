"""Recipes on ImageNet-1k."""
