"""The folders of runs, evaluations and cross-validations: the only code that knows the paths in them, and the types
of their files.
"""
