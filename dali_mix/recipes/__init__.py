"""Recipes: plain Python configs, one per published experiment. `dali-mix recipes` lists them."""

__all__: list[str] = []  # each is named to `dali_mix.train`
