"""Analysis of a net's structure; independent of families."""
