"""How other implementations name the tensors of our nets: a file a family, which the class of the net refers to."""
