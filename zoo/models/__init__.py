"""Families of nets, one file each. The registry walks this package, so that no list of families is kept."""
