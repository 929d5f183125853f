"""Recipes: plain Python configs that reproduce published experiments or serve as starting points.

`dali-mix recipes` lists them.
"""

__all__: list[str] = []  # recipes are passed to `dali_mix.train` by name
