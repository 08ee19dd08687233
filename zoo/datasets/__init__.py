"""Labelled images, for training and for measuring: built in, from folders and from libraries.

`image_set` says what a set is, `built_in` and `scenes` make those that come with the package, `external` opens all
others, `augment` changes training images. The rest reads foreign pictures: `folders` and `library` find them, `decode`
reads one, `check` looks at all, `fingerprint` tells sets apart, `half` is what each half of a set can do.

Pictures and their names are foreign. Only few formats are read, up to a size. Nothing in them is run, or printed
without escapes. A picture that cannot be read is an error that names it; no other picture takes its place.
"""
