"""Recipes: the files, and `RunConfig`, their checked form."""
