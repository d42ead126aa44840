"""Model card and CLAIM checklist."""
