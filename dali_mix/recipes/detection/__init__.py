"""Recipes on sets whose images have several labels."""
