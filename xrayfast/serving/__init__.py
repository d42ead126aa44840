"""`xrayfast serve`: a web page and a JSON endpoint that predict on images as `predict` does."""
