"""Labelled pictures from folders and libraries, for training and evaluation: find, read, check and identify them.

Pictures and their names are foreign. Only few formats are read, up to a size. Nothing in them is run, or printed
without escapes. A picture that cannot be read is an error that names it; no other picture takes its place.
"""
