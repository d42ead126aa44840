"""Confidence intervals of metrics, and paired tests of two networks: bootstrap over patients, DeLong, McNemar, Holm."""
