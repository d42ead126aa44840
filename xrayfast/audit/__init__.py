"""Find problems of a data set before anything is trained on it: odd files, duplicates, leaks, shortcuts."""
