"""Each image is decoded once and kept on disk."""
