"""`xrayfast serve`: a page and a JSON endpoint that answer for images as `predict` does."""
