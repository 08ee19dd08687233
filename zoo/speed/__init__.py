"""Time and memory of nets, measured side by side.

`cases` defines the measurements and runs the rounds, `timing` takes the times, `table` shows them. docs/speed.md
explains each figure.
"""
