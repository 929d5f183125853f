"""Recipe files, and `RunConfig`, their validated form."""
