"""Reports: figures, HTML pages, the model card and the CLAIM checklist."""
