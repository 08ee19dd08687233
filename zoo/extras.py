"""Packages that only parts of the zoo need, and how to install them."""

import importlib.util


def require(extra: str, *modules: str) -> None:
    """Check that the packages of one extra of pyproject.toml are installed.

    Args:
        extra: Name of the extra.
        modules: Names under which the packages are imported.

    Raises:
        ValueError: If a package is missing; the message names it and the extra.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ValueError(
                f"module {module!r} is not installed and belongs to the extra {extra!r}: in a checkout of the zoo, "
                f"pip install -e '.[{extra}]'"
            )
