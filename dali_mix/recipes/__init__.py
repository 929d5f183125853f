"""Recipes: plain Python configs of published experiments and starting points, as listed by `dali-mix recipes`."""

__all__: list[str] = []  # recipes are passed to `dali_mix.train` by name
