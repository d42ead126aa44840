"""The style of figures, and the display of results in notebooks."""
