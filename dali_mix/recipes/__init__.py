"""Recipes: one plain Python config a published experiment. `dali-mix recipes` lists them."""
