"""The table of training batches: thinned evenly, read back exactly."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xrayfast.errors import RunError
from xrayfast.files.csv_tables import write_csv
from xrayfast.runs.batches import add_epoch, empty_batches, read_batches, thin_batches

LOSSES = st.lists(
    st.lists(st.floats(0, 10, width=32), min_size=1, max_size=60), min_size=1, max_size=5
)  # per epoch, with any number of batches


def table_of(epochs, most_rows=10**6):
    table = empty_batches()
    for epoch, losses in enumerate(epochs, 1):
        rates = np.linspace(1e-3, 1e-5, len(losses)).tolist()
        table = add_epoch(table, epoch, losses, rates, [rate / 100 for rate in rates], most_rows)
    return table


@settings(max_examples=40)
@given(LOSSES, st.integers(8, 40))
def test_a_long_table_is_bounded_and_has_the_lowest_and_highest_loss_of_each_bucket(epochs, most_rows):
    every, thinned = table_of(epochs), table_of(epochs, most_rows)
    width = thinned["batches"].iloc[0]
    assert (thinned["batches"] == width).all()
    assert len(thinned) <= max(most_rows, 2 * len(epochs))
    for (epoch, bucket), rows in every.groupby(["epoch", (every["batch"] - 1) // width]):
        left = thinned[(thinned["epoch"] == epoch) & ((thinned["batch"] - 1) // width == bucket)]
        assert left["loss"].min() == rows["loss"].min()
        assert left["loss"].max() == rows["loss"].max()
        assert width == 1 or len(left) <= 2
    assert thinned.drop(columns="batches").merge(every.drop(columns="batches")).equals(thinned.drop(columns="batches"))


@settings(max_examples=40)
@given(LOSSES, st.integers(8, 40))
def test_thinning_in_steps_equals_thinning_once(epochs, most_rows):
    every, thinned = table_of(epochs), table_of(epochs, most_rows)
    pd.testing.assert_frame_equal(thinned, thin_batches(every, int(thinned["batches"].iloc[0])))


@settings(max_examples=40)
@given(LOSSES, st.integers(8, 40), st.data())
def test_a_table_that_was_written_and_read_grows_like_one_in_memory(tmp_path_factory, epochs, most_rows, data):
    path = tmp_path_factory.mktemp("batches") / "batches.csv"
    cut = data.draw(st.integers(0, len(epochs)))
    write_csv(path, table_of(epochs[:cut], most_rows))
    table = read_batches(path)
    for epoch, losses in enumerate(epochs[cut:], cut + 1):
        rates = np.linspace(1e-3, 1e-5, len(losses)).tolist()
        table = add_epoch(table, epoch, losses, rates, [rate / 100 for rate in rates], most_rows)
    pd.testing.assert_frame_equal(table, table_of(epochs, most_rows), check_exact=True)


@pytest.mark.parametrize("text", ["epoch,batch\n1,1\n", "epoch,batch,loss,lr,lr_lowest,batches\n1,1,x,1,1,1\n"])
def test_a_damaged_file_is_a_named_error(tmp_path, text):
    (tmp_path / "batches.csv").write_text(text)
    with pytest.raises(RunError, match=r"batches\.csv"):
        read_batches(tmp_path / "batches.csv")
