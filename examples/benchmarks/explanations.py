"""A sentence or two on a row of the page: why it falls short, or what to know when reading it. By the row's key."""

EXPLANATIONS: dict[str, str] = {}
