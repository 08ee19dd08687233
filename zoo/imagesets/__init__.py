"""Labelled pictures from folders and libraries, for training and for measuring: found, read, checked, told apart.

Pictures and their names are foreign: they are read in few formats, up to a size, and nothing of them is run or printed
as it is. A picture that cannot be read is an error that names it; no other takes its place.
"""
