"""Model card and CLAIM checklist. A damaged file of the run is a RunError."""
