"""The `dali-mix` command; each subcommand is a module of `commands`."""

__all__: list[str] = []  # a program, not a library
