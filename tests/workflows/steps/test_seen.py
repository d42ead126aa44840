"""Images that a run has seen are recognized by their digests."""

import numpy as np
import pandas as pd
import pytest

from xrayfast.config import Config
from xrayfast.errors import RunError
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.seen import connected_splits, find_run_splits


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path, "r", "r", Config(), {"status": "completed"})


def split(run, **columns):
    run.write_split(pd.DataFrame({"image": [f"{i}.png" for i in range(4)], **columns}))


def test_each_image_has_the_split_that_it_is_in(run):
    split(run, split=["train", "valid", "test", "train"], digest=["00", "1e5", "22", "33"])
    assert find_run_splits(run, ["33", "zz", "1e5", "22", "00", ""]).tolist() == [
        "train",
        "",
        "valid",
        "test",
        "train",
        "",
    ]
    assert find_run_splits(run, []).tolist() == []


def test_an_image_in_two_splits_counts_for_training(run):
    split(run, split=["test", "valid", "train", "test"], digest=["aa", "aa", "aa", "bb"])
    assert find_run_splits(run, ["aa", "bb"]).tolist() == ["train", "test"]


def test_an_older_run_has_no_digests(run):
    split(run, split=["train"] * 4)
    assert find_run_splits(run, ["aa"]) is None
    split(run, split=["train"] * 4, digest=[""] * 4)
    assert find_run_splits(run, ["aa"]) is None


def test_a_damaged_split(run):
    with pytest.raises(RunError, match=r"lacks split\.csv"):
        find_run_splits(run, ["aa"])
    split(run, digest=["aa"] * 4)
    with pytest.raises(RunError, match="lacks the columns split; found image, digest"):
        find_run_splits(run, ["aa"])


def test_a_copy_of_a_copy_is_seen_too():
    """An image with many versions is compared with only some of them."""
    own = [np.array(splits, object) for splits in (["test"], ["test", "train"], ["valid"])]
    pairs = np.array([[0, 3], [3, 4], [1, 5], [5, 6], [2, 6], [7, 8]])
    assert connected_splits(pairs, own, 7) == ["test", "test", "train", "train", "", "", ""]
    assert connected_splits(np.zeros((0, 2), int), own, 2) == ["", ""]
