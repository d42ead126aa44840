"""The use cases, one per module: plain functions that take settings, return data and print nothing."""
