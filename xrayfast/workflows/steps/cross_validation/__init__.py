"""The folds of a cross-validation: how images are divided, processes that train them, and the joined results."""
