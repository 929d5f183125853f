"""Dataset layouts, one a file: a function (root, split, options) -> `Listing`."""
