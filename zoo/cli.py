"""Where the command's `main` was before it moved to `zoo_cli`, for those who call it in Python."""

from zoo_cli import main

__all__ = ["main"]
