r"""From label cells to targets.

| module | step |
|---|---|
| `cells` | the text of a cell ("1", "-1", "", "Mass\|Edema") to a raw matrix: `UNCERTAIN` for -1, NaN for blank |
| `policies` | uncertain and blank cells to targets: ignored, 0, 1 or smoothed |
| `label_map` | synonyms to one label |
| `implications` | labels that follow from others |
| `resolve` | all of these in order, and the task |
"""
