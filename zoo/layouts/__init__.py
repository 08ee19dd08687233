"""Tensor names of other implementations: one file per family, which the class of the net refers to."""
