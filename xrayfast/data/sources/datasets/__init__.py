"""The public data sets that are recognized: one module each, listed in `registry`; `spec` defines a module's fields."""
