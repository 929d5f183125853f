"""Recipe files and their validated form, `RunConfig`."""
