"""The command `dali-mix`: one module per subcommand."""

__all__: list[str] = []  # a program, not a library
