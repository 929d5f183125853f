"""Recipes on CIFAR-100."""
