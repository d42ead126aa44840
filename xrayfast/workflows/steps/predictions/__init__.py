"""The predictions that results are computed from: of a run, of several networks, of any tool, or joined by study."""
