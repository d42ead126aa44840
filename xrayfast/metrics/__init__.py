"""Metrics computed from predictions: pure functions of numpy arrays, without torch.

Arguments of these names mean the same everywhere, unless a docstring says otherwise. N is the number of images, studies
or patients (all called images here), L that of labels, C of classes; a function of one label takes (N,) for (N, L).
    truth: (N, L) of 1, 0, and -1 where masked, which is left out; a single-label row is one-hot, or masked throughout.
    probability: (N, L) in [0, 1]; rows of single-label tasks sum to one.
    score: (N,) finite; often only its order matters.
    predicted: (N, L) of 0 and 1.
    labels: the L names.
    task: "single" or "multi".
    positive: the positive class of a single-label task with two classes, or None.
    target, confidence: the rate that a threshold has to reach, in (0, 1], for the rules "sensitivity" and
        "specificity"; and the confidence in (0, 1) with which new images are to reach it, None if only these are to.
    groups: (N,) patient numbers, which are the units of resampling; None if images are.
    unit: (N,) the number of each image's unit, from 0 to n_units - 1.
    resamples, seed: the number of resamples of the units, 0 for no intervals, and their seed.
    level: the confidence level.
Arrays of other shapes or values are a ValueError (see `inputs`), and so is a number out of its range.
"""
