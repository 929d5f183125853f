"""Recipes on CIFAR-10."""
