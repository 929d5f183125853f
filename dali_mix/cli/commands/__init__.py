"""The subcommands of `dali-mix`, one per file: `configure` adds the arguments, `run` does the work."""
