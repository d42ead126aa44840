from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.builders import classes, lines, make, message, noted, opened, splits, table
from xrayfast.config import DataConfig
from xrayfast.data.open_manifest import open_manifest
from xrayfast.data.splits.assign import assign_folds, assign_splits, connect_groups, keep_given_splits
from xrayfast.errors import ConfigError, DataError


def settled(given, groups=None, **options):
    positives = np.eye(2, dtype=np.uint8)[np.arange(len(given)) % 2]
    return assign_splits(given, positives, groups, DataConfig(**options))


def test_given_splits_are_kept_and_the_missing_ones_drawn():
    found = settled(["test"] * 4 + [None] * 8 + ["train"] * 8, valid_fraction=0.25, test_fraction=0.3)
    assert found.names[:4] == ["test"] * 4 and found.names.count("valid") == 4 and found.names.count("train") == 12
    assert found.drawn.tolist() == [False] * 4 + [True] * 16
    assert "Split drawn with seed 0: 25% valid, stratified by label, by image" in found.notes[0]


@pytest.mark.parametrize("options", [{"valid_fraction": 0.3}, {"folds": 3}])
def test_patients_after_a_given_test_split_stay_together(options):
    groups = np.append([0, 0, 0], 1 + np.arange(20) // 2)
    names = np.array(settled(["test"] * 3 + [None] * 20, groups, **options).names)
    assert [len(set(names[groups == group])) for group in range(11)] == [1] * 11
    assert set(names[3:]) == {"train", "valid"}


def test_nothing_is_drawn_if_all_splits_are_given():
    found = settled(["train", None, "valid", "test"])
    assert found.names == ["train", "train", "valid", "test"] and not found.drawn.any() and found.notes == []


def test_fractions_that_leave_a_split_empty_are_refused():
    with pytest.raises(ConfigError, match=r"valid_fraction 0\.5 and test_fraction 0\.5 leave nothing to train on"):
        settled([None] * 10, valid_fraction=0.5, test_fraction=0.5)
    assert settled([None] * 5 + ["test"] * 5, valid_fraction=0.5, test_fraction=0.5).names.count("train") in (2, 3)
    with pytest.raises(ConfigError, match="leave nothing to train on"):
        settled(["valid"] * 5 + [None] * 5, test_fraction=1 - 1e-12)


# Folds


def folds_of(count, **options):
    return [opened_splits(fold=fold, folds=count, **options) for fold in range(1, count + 1)]


def opened_splits(n=40, groups=None, given=None, **options):
    return np.array(settled(given or [None] * n, groups, **options).names)


def test_folds_share_the_test_split_and_divide_the_rest():
    found = folds_of(4, test_fraction=0.2)
    tests = [names == "test" for names in found]
    assert tests[0].sum() == 8 and all((test == tests[0]).all() for test in tests)
    valid = np.stack([names == "valid" for names in found])
    assert (valid.sum(0) == ~tests[0]).all() and valid.sum(1).tolist() == [8, 8, 8, 8]


@given(st.data())
def test_each_image_is_in_one_fold_and_no_group_in_two(data):
    n = data.draw(st.integers(12, 40))
    groups = np.array(data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)))
    held_out = data.draw(st.booleans())
    k = data.draw(st.integers(2, min(4, max(2, len(set(groups.tolist())) - 4 * held_out))))
    positives = np.eye(2, dtype=np.uint8)[np.arange(n) % 2]
    if len(set(groups.tolist())) < k + 4 * held_out:
        return
    config = DataConfig(folds=k, test_fraction=0.2 * held_out, split_seed=data.draw(st.integers(0, 5)))
    try:
        found = assign_folds([None] * n, positives, groups, config, repeats=2)
    except DataError as error:  # most groups are small and in the test split
        assert held_out and "patients (groups of images that stay together) for" in str(error)
        return
    if not held_out:
        other = config.model_copy(update={"split_seed": config.split_seed + 1})
        assert (found[:, 1] == assign_folds([None] * n, positives, groups, other)[:, 0]).all()
    in_test = found == 0
    assert (in_test[:, 0] == in_test[:, 1]).all()
    for column in found.T:
        assert set(column.tolist()) - {0} == set(range(1, k + 1))
        pairs = set(zip(groups.tolist(), column.tolist(), strict=True))
        assert len(pairs) == len(set(groups.tolist()))
    for fold in range(1, k + 1):
        alone = assign_splits([None] * n, positives, groups, config.model_copy(update={"fold": fold})).names
        assert np.array_equal(np.array(alone) == "valid", found[:, 0] == fold)
        assert np.array_equal(np.array(alone) == "test", found[:, 0] == 0)


def test_folds_by_image_keep_groups_together_in_the_test_split():
    groups = np.repeat(np.arange(12), 5)
    positives = np.eye(2, dtype=np.uint8)[np.arange(60) % 2]
    config = DataConfig(folds=3, test_fraction=0.25)
    found = assign_folds([None] * 60, positives, groups, config, by_image=True)[:, 0]
    folds_of_group = [set(found[groups == group].tolist()) for group in range(12)]
    assert sum(folds == {0} for folds in folds_of_group) == 3
    assert all(0 not in folds or folds == {0} for folds in folds_of_group)
    assert any(len(folds) > 1 for folds in folds_of_group)


def test_folds_divide_the_images_outside_a_given_test_split():
    given = ["test"] * 10 + [None] * 20 + ["train"] * 10
    found = folds_of(3, given=given, test_fraction=0.2)
    assert all((names[:10] == "test").all() for names in found)
    assert (np.stack([names == "valid" for names in found]).sum(0)[10:] == 1).all()


def test_patients_stay_together_in_folds():
    groups = np.arange(40) // 4
    for names in folds_of(5, groups=groups, test_fraction=0.2):
        assert all(len(set(names[groups == group])) == 1 for group in range(10))


def test_the_first_fold_is_the_default():
    assert (opened_splits(folds=5) == opened_splits(folds=5, fold=1)).all()
    assert "fold 2 of 5 as valid and 20% test" in settled([None] * 40, folds=5, fold=2, test_fraction=0.2).notes[0]


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ([None] * 10, {"folds": 3, "fold": 4}, "found fold 4 of 3; expected one from 1 to 3"),
        ([None] * 10, {"fold": 1}, "found fold 1 without folds"),
        (["valid"] * 2 + [None] * 8, {"folds": 3}, "is given. Use ignore_split=True to draw folds"),
        (
            ["valid"] * 2 + [None] * 8,
            {"folds": 3, "split_file": "s.csv"},
            "Replace split_file= with ignore_split=True",
        ),
    ],
)
def test_impossible_folds_are_refused(given, options, words):
    with pytest.raises(ConfigError, match=words):
        settled(given, **options)


def test_folds_of_a_set_with_splits(tmp_path):
    for split in ("train", "valid"):
        classes(tmp_path / "data" / split, a=4, b=4)
    assert "whose validation split is given" in message(ConfigError, tmp_path / "data", folds=3)
    classes(tmp_path / "flat", a=10, b=10)
    opened(tmp_path / "flat").split_table().to_csv(tmp_path / "split.csv", index=False)
    found = message(ConfigError, tmp_path / "flat", folds=3, split_file=tmp_path / "split.csv")
    assert "whose validation split is given" in found


# Images that are not in the split file


def grown(tmp_path, count, **options):
    """Open the first `count` images of data with two images per patient and labels a, a, b, a, a, b, ..."""
    make(tmp_path / "data", *(f"images/{i}.png" for i in range(count)))
    rows = [f"images/{i}.png,{'aab'[i // 2 % 3]},secret-{i // 2}" for i in range(count)]
    table(tmp_path / "data", "\n".join(["image,label,patient", *rows]) + "\n")
    return opened(tmp_path / "data", **options)


def saved(tmp_path, data):
    data.split_table().to_csv(tmp_path / "split.csv", index=False)
    return tmp_path / "split.csv"


def test_a_new_patient_moves_no_old_image(tmp_path):
    old = grown(tmp_path, 100, test_fraction=0.2)
    file = saved(tmp_path, old)
    new = grown(tmp_path, 102, split_file=file)
    moved = [name for name, split in splits(old).items() if splits(new)[name] != split]
    assert moved == [] and new.drawn.tolist() == [False] * 100 + [True] * 2
    assert splits(new)["images/100.png"] == splits(new)["images/101.png"]
    drawn_anew = splits(grown(tmp_path, 102, test_fraction=0.2))
    assert any(drawn_anew[name] != split for name, split in splits(old).items())


def test_new_images_of_a_patient_join_that_patient(tmp_path):
    old = splits(grown(tmp_path, 39, test_fraction=0.2))
    for split in ("train", "valid", "test"):
        text = "image,split\n" + "".join(
            f"{name},{split if name == 'images/38.png' else one}\n" for name, one in old.items()
        )
        data = grown(tmp_path, 42, split_file=table(tmp_path, text, "split.csv"))
        assert splits(data)["images/39.png"] == split
        assert noted(
            data, "kept for 39 images", "missing from it: 1 joined the split of their patient, 2 assigned with seed 0"
        )


@pytest.mark.parametrize("seed", range(5))
def test_the_shares_over_all_images_are_closest_to_those_of_the_file(tmp_path, seed):
    file = saved(tmp_path, grown(tmp_path, 60, valid_fraction=0.3, test_fraction=0.1, split_seed=seed))
    data = grown(tmp_path, 240, split_file=file, split_seed=seed)
    assert data.counts().loc["images"].to_dict() == {"train": 144, "valid": 72, "test": 24}
    assert data.counts().loc[["a", "b"]].to_numpy().tolist() == [[96, 48, 16], [48, 24, 8]]
    assert splits(grown(tmp_path, 240, split_file=file, split_seed=seed)) == splits(data)
    again = grown(tmp_path, 240, split_file=saved(tmp_path, data))
    assert splits(again) == splits(data) and not again.drawn.any()


def test_new_patients_go_where_a_label_is_short():
    # Train has all 8 images of b: the two new images of b go to valid and test, which should have a fifth each.
    given = ["train"] * 12 + ["valid"] * 4 + ["test"] * 4 + [None] * 2
    b = np.array([1] * 8 + [0] * 12 + [1] * 2, np.uint8)
    found = assign_splits(given, np.stack([1 - b, b], 1), None, DataConfig(split_file="split.csv"))
    assert sorted(found.names[-2:]) == ["test", "valid"]


@pytest.mark.parametrize(
    ("of_patient", "joined"),
    [(["test", "train"], "train"), (["valid", "train"], "train"), (["test", "valid"], "valid")],
)
def test_new_images_of_a_patient_that_the_file_divides(of_patient, joined):
    given = [*of_patient, None, "train", "valid", "test"]
    found = settled(given, np.array([0, 0, 0, 1, 2, 3]), split_file="split.csv")
    assert found.names == [*of_patient, joined, "train", "valid", "test"]


def test_many_new_images_are_assigned_as_close_to_the_shares_as_possible():
    given = ["train"] * 500 + ["valid"] * 500 + [None] * 2000
    found = settled(given, test_fraction=0.3, split_file="split.csv").names
    assert {split: found.count(split) for split in ("train", "valid", "test")} == {
        "train": 1050, "valid": 1050, "test": 900
    }  # fmt: skip


def test_a_test_split_that_the_file_lacks_is_of_new_patients(tmp_path):
    old = grown(tmp_path, 60)
    data = grown(tmp_path, 90, split_file=saved(tmp_path, old), test_fraction=0.2)
    assert data.counts().loc["images"].to_dict() == {"train": 58, "valid": 14, "test": 18}
    assert all(splits(data)[name] == split for name, split in splits(old).items())


def test_a_duplicate_of_an_old_image_joins_it(tmp_path):
    old = grown(tmp_path, 60, test_fraction=0.2)
    new = grown(tmp_path, 90, split_file=saved(tmp_path, old))
    groups = np.arange(90)
    test = [i for i, split in enumerate(splits(old).values()) if split == "test"][:6]
    groups[[60, 62, 64, 66, 68, 70]] = test
    again = new.redraw_splits(groups)
    assert all(splits(again)[f"images/{i}.png"] == "test" for i in range(60, 72))
    assert all(splits(again)[name] == split for name, split in splits(old).items())


def test_a_drawn_test_split_of_a_whole_file_is_redrawn_as_before(tmp_path):
    data = grown(tmp_path, 60, split_file=saved(tmp_path, grown(tmp_path, 60)), test_fraction=0.2)
    again = data.redraw_splits(np.array([0 if i in (0, 3) else i for i in range(60)]))
    assert again.counts().loc["images"].to_dict() == data.counts().loc["images"].to_dict()


partly = st.lists(
    st.tuples(st.sampled_from(["train", "valid", "test", None, None]), st.integers(0, 20), st.integers(0, 2)),
    max_size=60,
)


@given(partly, st.booleans(), st.sampled_from([0.0, 0.3]), st.integers(0, 9))
def test_no_given_image_moves_and_no_new_patient_is_divided(images, grouped, test_fraction, seed):
    file, patients, labels = map(list, zip(("train", 90, 0), ("valid", 91, 0), *images, strict=True))
    groups = np.array(patients) if grouped else None
    config = DataConfig(split_file="split.csv", test_fraction=test_fraction, split_seed=seed)
    found = assign_splits(file, np.eye(3, dtype=np.uint8)[labels], groups, config)
    rows = list(zip(file, patients, found.names, strict=True))
    assert set(found.names) <= {"train", "valid", "test"}
    if None in file:
        assert all(old in (None, new) for old, _, new in rows)
        assert found.drawn.tolist() == [old is None for old in file]
    for patient in set(patients) if grouped and None in file else ():
        known = {old for old, one, _ in rows if one == patient} - {None}
        of_new = {new for old, one, new in rows if one == patient and old is None}
        first = [split for split in ("train", "valid", "test") if split in known][:1]
        assert len(of_new) <= 1 and (not known or of_new <= {*first})
    assert assign_splits(file, np.eye(3, dtype=np.uint8)[labels], groups, config).names == found.names


# Linked groups


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 5), min_size=n, max_size=n)] * 2)))
def test_connected_groups(groupings):
    first, second = groupings
    found = connect_groups(np.array(first), None, np.array(second))
    for i in range(len(first)):
        reached = {i}
        while True:
            more = {
                k for k in range(len(first)) for j in reached if first[j] == first[k] or second[j] == second[k]
            }  # fmt: skip
            if more == reached:
                break
            reached = more
        assert {k for k in range(len(first)) if found[k] == found[i]} == reached
    assert connect_groups(None, None) is None


# Redrawn splits


def patients(tmp_path, count=20):
    """Write data with two images per patient: 0 and 1, 2 and 3, and so on."""
    make(tmp_path, *(f"images/{i}.png" for i in range(count)))
    table(tmp_path, lines("image,label,patient", "images/{i}.png,{ab},{p}", count))
    return tmp_path


def test_redrawn_keeps_groups_and_patients_together(tmp_path):
    data = opened(patients(tmp_path), valid_fraction=0.3)
    groups = np.array([0 if i in (0, 3, 4) else i for i in range(20)])
    again = data.redraw_splits(groups)
    assert len({splits(again)[f"images/{i}.png"] for i in range(6)}) == 1
    assert again.table.groupby("patient")["split"].nunique().max() == 1
    assert noted(again, "Split redrawn to keep each patient and all duplicates in one split")
    unknown = opened(tmp_path, patient_col="none").redraw_splits(groups)
    assert noted(unknown, "Split redrawn to keep duplicates in one split")
    assert again.counts().loc["images"].sum() == 20 and again.drawn.all()
    assert (again.targets == data.targets).all() and splits(again.redraw_splits(groups)) == splits(again)
    assert sum("Split redrawn" in note for note in again.redraw_splits(groups).notes) == 1


def test_redraw_leaves_given_splits(tmp_path):
    text = lines("image,label,split", "images/{i}.png,{ab},train", 20).replace("0.png,a,train", "0.png,a,test")
    make(tmp_path, *(f"images/{i}.png" for i in range(20)))
    table(tmp_path, text)
    data = opened(tmp_path)
    again = data.redraw_splits(np.array([0 if i in (0, 1, 2) else i for i in range(20)]))
    assert [name for name, split in splits(again).items() if split == "test"] == ["images/0.png", "images/10.png"]
    assert splits(again)["images/1.png"] == splits(again)["images/2.png"]


def test_a_given_split_is_not_redrawn(tmp_path):
    for split in ("train", "valid"):
        classes(tmp_path / split, a=4, b=4)
    data = opened(tmp_path)
    assert data.redraw_splits(np.zeros(16, int)) is data and not data.drawn.any()


def test_redrawn_folds_stay_folds(tmp_path):
    source = patients(tmp_path)
    groups = np.array([0 if i in (0, 3) else i for i in range(20)])
    valid = [
        {
            name
            for name, split in splits(opened(source, folds=3, fold=fold).redraw_splits(groups)).items()
            if split == "valid"
        }
        for fold in (1, 2, 3)
    ]
    assert len(set.union(*valid)) == 20 == sum(map(len, valid))


def test_redrawing_data_that_cannot_be_divided(tmp_path):
    data = opened(classes(tmp_path, a=5, b=5))
    with pytest.raises(DataError, match=r"no images in the (train|valid) split"):
        data.redraw_splits(np.zeros(10, int))


# Data without training


def test_without_training_nothing_is_drawn():
    found = keep_given_splits(["train", None, "valid", "test", None])
    assert found.names == ["train", "test", "valid", "test", "test"]
    assert not found.drawn.any() and found.notes == []


def test_one_image_of_one_class_can_be_evaluated(tmp_path):
    one = open_manifest(DataConfig(source=classes(tmp_path / "one", normal=1)), to_train=False)
    assert splits(one) == {"normal/normal000.png": "test"} and one.labels == ("normal",)
    with pytest.raises(DataError, match="only one class"):
        opened(tmp_path / "one")
    split = make(tmp_path / "split", "train/a/1.png", "test/b/1.png")
    found = open_manifest(DataConfig(source=split), to_train=False)
    assert splits(found) == {"train/a/1.png": "train", "test/b/1.png": "test"}


def test_given_labels_that_no_image_has_are_kept(tmp_path):
    make(tmp_path, "0.png", "1.png")
    table(tmp_path, "image,Effusion,Mass,Edema\n0.png,0,1,-1\n1.png,0,0,-1\n")
    config = DataConfig(source=tmp_path, label_col=("Effusion", "Mass", "Edema"))
    assert open_manifest(config, to_train=False).labels == ("Effusion", "Mass")
