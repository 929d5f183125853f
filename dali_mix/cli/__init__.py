"""The command `dali-mix`: a module a command."""

__all__: list[str] = []  # a program, no library
