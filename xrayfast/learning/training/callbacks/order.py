"""The order in which callbacks run within each event, lowest first: fastai's and ours in one table.

Ours take their `order` from here. A callback that sets none has fastai's default, 0.
"""

CALLBACK_ORDER: dict[str, float] = {
    "AdaptThreads": -51,
    "EpochSeeds": -50,  # before anything of the epoch is drawn
    "UseFrozenFeatures": -40,  # replaces images by cached features
    "ProgressiveSizes": -30,
    "RepeatChannel": -20,
    "TrainAsRank": -19,  # before what draws for the rank's own rows; outputs are of all ranks before anyone sees them
    "MixImages": -15,  # images as the network gets them
    "TrainEvalCallback": -10,  # fastai's: sets the mode of the whole network
    "FrozenInference": -9,  # then that of frozen layer groups
    "AverageWeights": -8,  # averages what those modes let train
    "CastToTensor": 9,  # fastai's
    "PreciseBatchNorm": 9.2,
    "AccumulateGradients": 9.25,  # before fp16 steps
    "Autocast": 10,
    "Float16": 10,
    "GradientClip": 11,  # fastai's; by then gradients are not scaled
    "EpochRecorder": 50,
    "TrainRecorder": 50.5,  # before what may end training within the epoch
    "EpochCheckpoint": 52,  # it may end training
    "EpochPosition": 52.2,  # stops training after an epoch once that is saved
    "BatchProgress": 52.5,
    "InterruptRangeTest": 53,
    "ParamScheduler": 60,  # fastai's
    "ProgressCallback": 60,  # fastai's
}
