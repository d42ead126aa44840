"""From class folders or a table to image records."""
