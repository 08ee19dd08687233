"""One file a family; the registry walks this package, so that no list of families is kept."""
