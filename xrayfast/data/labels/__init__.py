r"""From label cells to targets.

| module | step |
|---|---|
| `cells` | parses cells of names ("Mass\|Edema") into a raw matrix: `UNCERTAIN` for -1, NaN for blank |
| `flags` | parses columns of "1", "-1" and "" into such a matrix |
| `policies` | turns uncertain and blank cells into targets: ignored, 0, 1 or smoothed |
| `label_map` | replaces synonyms by one label |
| `implications` | adds labels that follow from others |
| `resolve` | applies all of these in order, and infers the task |

Cells and labels that can't be used are a DataError, which says where; options that are wrong or name no label are a
ConfigError.
"""
