"""The order in which callbacks run within each event, lowest first: fastai's and xrayfast's in one table.

xrayfast's callbacks take their `order` from here. A callback that sets none has fastai's default, 0.
"""

CALLBACK_ORDER: dict[str, float] = {
    "AdaptThreads": -51,
    "EpochSeeds": -50,  # before any random numbers of the epoch are drawn
    "UseFrozenFeatures": -40,  # replaces images by cached features
    "ProgressiveSizes": -30,
    "RepeatChannel": -20,
    "TrainAsRank": -19,  # before callbacks that draw random numbers per rank, or use the outputs, which it gathers
    "MixImages": -15,  # after RepeatChannel: mixes images with the network's number of channels
    "TrainEvalCallback": -10,  # fastai's: sets the mode of the whole network
    "FrozenInference": -9,  # after TrainEvalCallback: puts frozen layer groups into evaluation mode
    "AverageWeights": -8,  # after both: averages what trains in these modes
    "CastToTensor": 9,  # fastai's
    "PreciseBatchNorm": 9.2,
    "AccumulateGradients": 9.25,  # before the optimizer step of fp16
    "Autocast": 10,
    "Float16": 10,
    "GradientClip": 11,  # fastai's; after fp16 has unscaled the gradients
    "EpochRecorder": 50,
    "TrainRecorder": 50.5,  # before callbacks that may end training within the epoch
    "EpochCheckpoint": 52,  # it may end training
    "EpochPosition": 52.2,  # after EpochCheckpoint: stops after an epoch only when it is saved
    "BatchProgress": 52.5,
    "InterruptRangeTest": 53,
    "ParamScheduler": 60,  # fastai's
    "ProgressCallback": 60,  # fastai's
}
