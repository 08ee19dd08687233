"""Trained weights: what is published, how others name their tensors, and how a file becomes a net's numbers.

`zoo.weights.tags` says what is published, `zoo.weights.layout` how other implementations name things,
`zoo.weights.reader` what is in a file, `zoo.weights.sources` where files come from, `zoo.weights.fit` what of a file
fits a net, and `zoo.weights.loading` does it: one path, whether a net is created, loaded or only compared.
"""

__all__ = ["Layout", "Weights"]

from zoo.weights.layout import Layout
from zoo.weights.tags import Weights
