"""Trained weights: published tags, tensor names of other implementations, and the way from a file to a net.

- `zoo.weights.tags`: what is published.
- `zoo.weights.layout`: names that other implementations use.
- `zoo.weights.reader`: reads a file.
- `zoo.weights.sources`: fetches files.
- `zoo.weights.fit`: finds the tensors of a file that fit a net.
- `zoo.weights.loading`: loads. Creating, loading and comparing a net take the same path.
"""

__all__ = ["Layout", "Weights"]

from zoo.weights.layout import Layout
from zoo.weights.tags import Weights
