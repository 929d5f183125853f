"""Recipes: plain Python configs of published experiments, and some to start from. `dali-mix recipes` lists them."""

__all__: list[str] = []  # recipes are passed to `dali_mix.train` by name
