"""Dataset layouts, one per file. A layout is a function (root, split, options) -> `Listing`."""
