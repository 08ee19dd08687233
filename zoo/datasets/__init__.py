"""Labelled images, for training and for measuring: built in, from folders and from libraries.

`image_set` defines a set. `built_in` and `scenes` make the sets that come with the package. `external` opens all
others. `augment` changes training images. The other modules read foreign pictures: `folders` and `library` find them,
`decode` reads one, `check` reads all, `fingerprint` identifies sets, `half` is the interface of one half of a set.

Pictures and their names are foreign. Only few formats are read, up to a size. Nothing in them is run, or printed
without escapes. A picture that cannot be read is an error that names it; no other picture takes its place.
"""
