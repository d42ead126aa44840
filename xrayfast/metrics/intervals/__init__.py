"""Confidence intervals of metrics and paired tests of two networks: cluster bootstrap, DeLong, McNemar, Holm."""
