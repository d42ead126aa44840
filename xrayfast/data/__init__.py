"""From files on disk to a table of images with labels and parts: numpy, pandas and Pillow, no torch."""
