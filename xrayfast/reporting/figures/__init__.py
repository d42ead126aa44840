"""Figures of a run: pure functions to a matplotlib `Figure`, in the style of `figure_style`.

Names of labels and files are foreign texts: none is read as TeX (a `$` in a label would be), and each is cut in its
middle where it would not fit; of several in a caption, those that fit are shown whole.
"""
