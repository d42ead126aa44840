"""Assignment of images to splits: given splits, words for them, and stratified drawing that keeps groups together.

Options that contradict each other or the given splits are a ConfigError; too few groups, and arrays of different
lengths, are a DataError.
"""
