"""The pages, one module each: what a person is shown of a data set, a run, an evaluation, predictions, a comparison."""
