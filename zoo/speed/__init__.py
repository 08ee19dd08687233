"""Time and memory of nets, measured side by side.

`cases` says what is measured and runs the rounds, `timing` takes the times, `table` shows them; docs/speed.md says what
each figure is.
"""
