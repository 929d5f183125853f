"""Dataset layouts, one per file: a function (root, split, options) -> `Listing`."""
