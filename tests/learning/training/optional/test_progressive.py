"""Progressive resizing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import xrayfast as xf
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.training.optional.progressive import resize_progressively, sizes_by_epoch

SIZES = st.lists(st.integers(32, 300), min_size=1, max_size=5, unique=True).map(lambda found: tuple(sorted(found)))


@given(st.integers(1, 30), SIZES)
def test_sizes_grow_end_at_the_network_s_and_share_the_epochs(epochs, steps):
    found = sizes_by_epoch(epochs, steps, steps[-1])
    assert len(found) == epochs
    assert list(found) == sorted(found)
    assert found[-1] == steps[-1]
    shares = range(1, len(steps) + 1)
    for step, share in zip(steps, shares, strict=True):
        assert abs(found.count(step) - epochs * share / sum(shares)) < 1


class Seen(Callback):
    def __init__(self):
        self.sizes = []

    def before_batch(self):
        self.sizes.append((self.epoch, self.training, self.xb[0].shape[-1]))


def test_training_and_validation_use_the_size_of_the_epoch_and_later_that_of_the_network(data_dir):
    dls = xf.dataloaders(xf.open_data(data_dir), size=64, batch_size=8, device="cpu")
    learn = xf.learner(dls, weights="none", precision="fp32")
    seen = Seen()
    with learn.no_bar(), learn.no_logging(), resize_progressively(learn, (32, 64)):
        learn.fit(2, cbs=seen)
    assert {(epoch, training): size for epoch, training, size in seen.sizes} == {
        (0, True): 32,
        (0, False): 32,
        (1, True): 64,
        (1, False): 64,
    }
    with pytest.raises(RuntimeError), resize_progressively(learn, (32,)):
        learn.dls.train.after_batch.fs[1].side = 32
        raise RuntimeError
    assert dls.one_batch()[0].shape[-1] == 64
