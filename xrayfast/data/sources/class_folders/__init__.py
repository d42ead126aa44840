"""Images in folders that are named for their classes."""
