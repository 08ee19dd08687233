"""Old place of the command's `main`, which has moved to `zoo_cli`; kept for callers in Python."""

from zoo_cli import main

__all__ = ["main"]
