"""Figures of a run: pure functions that return a matplotlib `Figure`, in the style of `figure_style`.

Names of labels and files are arbitrary text: none is parsed as TeX (a `$` in a label would be). A name that does not
fit is cut in its middle; a caption with several names shows those that fit.
"""
