"""The subcommands of `dali-mix`, one a file: `configure` adds the arguments, `run` does the work."""
