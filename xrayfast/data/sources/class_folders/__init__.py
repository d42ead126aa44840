"""Images in folders that are called for their classes."""
