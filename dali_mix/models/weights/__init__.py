"""Weight files, published formats, and loading into a model with a report."""
