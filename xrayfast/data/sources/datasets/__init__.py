"""The public data sets that are recognised: a module each, listed in `registry`; `spec` is what a module can say."""
