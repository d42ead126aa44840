"""Columns that give the split or the sex, or have another meaning, and are no labels."""

from __future__ import annotations

import pytest

from tests.data.builders import classes, column, lines, make, message, noted, opened, splits, table
from xrayfast.errors import DataError


@pytest.fixture
def data_dir(tmp_path):
    """A folder with 0.png to 9.png."""
    return make(tmp_path, *(f"{i}.png" for i in range(10)))


def with_column(root, name, cells, **options):
    text = "".join(f"{i}.png,{'NP'[i % 2]},{cell}\n" for i, cell in enumerate(cells))
    return opened(root, labels=table(root, f"image,label,{name}\n{text}"), **options)


def counts(data):
    return {name: list(splits(data).values()).count(name) for name in ("train", "valid", "test")}


@pytest.mark.parametrize("name", ["phase", "Dataset_type", "Dataset", "usage", "fold", "split"])
@pytest.mark.parametrize("words", [("TRAIN", "Test"), ("training", "testing"), ("Training Set", "test_set")])
def test_a_column_of_train_and_test_is_the_split_whatever_it_is_called(data_dir, name, words):
    data = with_column(data_dir, name, [words[0]] * 6 + [words[1]] * 4)
    assert [splits(data)[f"{i}.png"] for i in range(6, 10)] == ["test"] * 4 and counts(data)["test"] == 4
    assert noted(data, f"splits from '{name}'") and data.labels == ("N", "P")


@pytest.mark.parametrize(
    ("name", "cells", "given"),
    [
        ("is_test", "0000000011", {"test": 2, "valid": 2, "train": 6}),
        ("IsTest", ["False"] * 8 + ["True"] * 2, {"test": 2, "valid": 2, "train": 6}),
        ("is_valid", "0000000111", {"test": 0, "valid": 3, "train": 7}),
        ("is_train", "1111111000", {"test": 3, "valid": 2, "train": 5}),
        ("train_set", "1111111000", {"test": 3, "valid": 2, "train": 5}),
    ],
)
def test_a_flag_of_a_split_is_the_split(data_dir, name, cells, given):
    data = with_column(data_dir, name, cells)
    assert counts(data) == given
    assert noted(data, f"1 in '{name}' is")


def test_flags_of_several_splits(data_dir):
    text = "image,Mass,is_train,is_val\n" + "".join(
        f"{i}.png,{i % 2},{int(i < 5)},{int(i in (5, 6))}\n" for i in range(10)
    )
    data = opened(data_dir, labels=table(data_dir, text))
    assert data.labels == ("Mass",) and counts(data) == {"train": 5, "valid": 2, "test": 3}
    assert noted(data, "1 in 'is_train' is train, 1 in 'is_val' is valid; images without a 1 are test")
    table(data_dir, text.replace("0.png,0,1,0", "0.png,0,1,1"))
    assert "row 2: found 1 in several of the column of" in message(DataError, data_dir)


def test_columns_named_like_splits_are_split_flags_if_they_exclude_each_other(data_dir):
    text = "image,label,train,valid,test\n" + "".join(
        f"{i}.png,{'NP'[i % 2]},{int(i < 5)},{int(i in (5, 6))},{int(i > 6)}\n" for i in range(10)
    )
    data = opened(data_dir, labels=table(data_dir, text))
    assert counts(data) == {"train": 5, "valid": 2, "test": 3}
    assert noted(data, "Splits: 1 in 'train' is train, 1 in 'valid' is valid, 1 in 'test' is test.")
    data = opened(data_dir, labels=table(data_dir, text.replace("0.png,N,1,0,0", "0.png,N,1,1,0")))
    assert counts(data)["test"] == 0 and noted(data, "to use it, give --split-col 'test'")
    data = with_column(data_dir, "split", "0120120120")
    assert noted(data, "'split' may contain the split too, but is not used")


@pytest.mark.parametrize("name", ["is_test", "Test", "fold", "male", "sex_F", "id", "Frontal", "valid"])
def test_split_columns_are_no_labels_unless_requested(data_dir, name):
    text = f"image,Mass,{name}\n" + "".join(f"{i}.png,{i % 2},{int(i > 6)}\n" for i in range(10))
    file = table(data_dir, text)
    assert opened(data_dir, labels=file).labels == ("Mass",)
    data = opened(data_dir, labels=file, label_col=("Mass", name))
    assert set(data.labels) == {"Mass", name} and counts(data)["test"] == 0


def test_columns_that_are_not_used_are_named(data_dir):
    data = with_column(data_dir, "hospital", "abcdefghij")
    assert noted(data, "Columns of labels.csv", "not used: 'hospital'")
    told = "may mark images to leave out, but is not used"
    assert noted(with_column(data_dir, "exclude", ["", "yes"] * 5), f"'exclude' {told}")
    assert noted(with_column(data_dir, "Quality", ["good", "bad"] * 5), f"'Quality' {told}")
    assert noted(with_column(data_dir, "Exclude (y/n)", "nnnnnnnnny"), f"'Exclude (y/n)' {told}")
    assert noted(with_column(data_dir, "remarks", [*["ok"] * 9, "copy - do not use"]), f"'remarks' {told}")
    assert not noted(with_column(data_dir, "remarks", [*["ok"] * 9, "mass cannot be excluded"]), told)
    data = with_column(data_dir, "phase", ["train"] * 6 + ["eval"] * 4)
    assert (
        noted(data, "'phase' may contain the split too, but is not used: to use it, give --split-col 'phase'")
        and counts(data)["test"] == 0
    )
    data = with_column(data_dir, "test", "0000000111")
    assert noted(data, "to use it, give --split-col 'test'") and counts(data)["test"] == 0
    assert counts(with_column(data_dir, "test", "0000000111", split_col="test"))["test"] == 3


def test_the_usual_split_column_takes_precedence(data_dir):
    text = "image,label,phase,split\n" + "".join(
        f"{i}.png,{'NP'[i % 2]},{'train' if i < 5 else 'test'},{'train' if i < 8 else 'test'}\n" for i in range(10)
    )
    data = opened(data_dir, labels=table(data_dir, text))
    assert counts(data)["test"] == 2 and noted(data, "'phase' may contain the split too")


@pytest.mark.parametrize(("name", "sexes"), [("male", ["F", "M"]), ("is_female", ["M", "F"]), ("Sex_M", ["F", "M"])])
def test_a_flag_of_one_sex_is_the_sex(data_dir, name, sexes):
    data = with_column(data_dir, name, "0101010101")
    assert column(data, "sex")[:2] == sexes and noted(data, f"sex from '{name}'")


def test_true_and_false_are_flags_if_there_are_no_others(data_dir):
    text = "image,Mass,Edema\n" + "".join(f"{i}.png,{i % 2 == 0},{i % 3 == 0}\n" for i in range(10))
    data = opened(data_dir, labels=table(data_dir, text))
    assert data.labels == ("Edema", "Mass") and data.targets.sum(0).tolist() == [4, 5]


def test_words_for_missing_are_no_patient(data_dir):
    file = table(data_dir, lines("image,label,patient_id", "{i}.png,{ab},nan", 8) + "8.png,a,x\n9.png,b,x\n")
    data = opened(data_dir, labels=file)
    assert column(data, "patient") == [None] * 8 + ["P00001"] * 2
    assert noted(data, "Read as blank cells: 'nan' 8 times in 'patient_id'")


def test_counts_are_no_labels_and_values_in_a_column_s_name_no_part_of_it(tmp_path):
    make(tmp_path, *(f"i{i}.png" for i in range(10)))
    table(
        tmp_path, lines("image,Effusion (0/1),Mass [1=yes],n_findings", "i{i}.png,1,0,1").replace(",1,0,1", ",0,1,1", 4)
    )
    data = opened(tmp_path)
    assert data.labels == ("Effusion", "Mass") and noted(data, "not used: 'n_findings'")


def test_a_column_of_folds_is_noted(tmp_path):
    make(tmp_path, *(f"i{i}.png" for i in range(10)))
    table(tmp_path, lines("image,label,fold", "i{i}.png,{ab},{i}"))
    assert noted(opened(tmp_path), "'fold' may contain folds, which are not used")


def test_numbered_splits(tmp_path):
    make(tmp_path, *(f"i{i}.png" for i in range(12)))
    rows = "".join(f"i{i}.png,{'ab'[i % 2]},{'Train 1' if i < 8 else 'Val 2'}\n" for i in range(12))
    table(tmp_path, "image,label,subset\n" + rows)
    assert opened(tmp_path).table["split"].tolist() == ["train"] * 8 + ["valid"] * 4


# Columns of 1 and 0 whose names say that they are no labels


def with_flags(root, *names, **options):
    """Open data with the label Mass and columns of 1 and 0 with other names."""
    text = "".join(f"{i}.png,{i % 2}," + ",".join(str(int(i > 6)) for _ in names) + "\n" for i in range(10))
    return opened(root, labels=table(root, f"image,Mass,{','.join(names)}\n{text}"), **options)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Edema_pred", "a prediction"),
        ("probEdema", "a prediction"),
        ("Edema (score)", "a prediction"),
        ("AI_Edema", "a prediction"),
        ("quality_ok", "the quality of images"),
        ("is_valid_image", "the quality of images"),
        ("Excluded", "the quality of images"),
        ("Mass_mask", "what is known of a label"),
        ("Mass_uncertain", "what is known of a label"),
        ("has_bbox", "the quality of images"),
        ("AP_portable", "the view"),
        ("num_images", "an identifier or a count"),
    ],
)
def test_columns_of_predictions_and_of_quality_are_no_labels(data_dir, name, what):
    data = with_flags(data_dir, name, "sex_male")
    assert data.labels == ("Mass",)
    assert noted(data, "Not used as labels, because of their names", f"'{name}' ({what}", "--label-col")
    assert set(with_flags(data_dir, name, label_col=("Mass", name)).labels) == {"Mass", name}


def test_a_column_of_the_quality_alone_is_no_label_unless_named(data_dir):
    text = "image,usable\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(10))
    file = table(data_dir, text)
    found = message(DataError, data_dir, labels=file)
    assert "but no column of labels" in found and "'usable' (the quality of images" in found
    assert opened(data_dir, labels=file, label_col=("usable",)).labels == ("usable",)


@pytest.mark.parametrize(
    "name",
    ["smoker", "Diabetes", "deceased", "30d_mortality", "Mass_reader2", "hospital_B"],
)
def test_the_history_of_a_patient_is_a_label_with_a_note(data_dir, name):
    data = with_flags(data_dir, name)
    assert set(data.labels) == {"Mass", name} and noted(data, "although their names", f"'{name}'", "--label-col")
    text = f"image,{name}\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(10))
    assert not noted(opened(data_dir, labels=table(data_dir, text)), "although their names")


def test_findings_are_labels_without_a_note(data_dir):
    names = ("Pleural Effusion", "Consolidation", "Lung Lesion", "Support Devices", "No Finding", "Lateral meniscus")
    data = with_flags(data_dir, *names)
    assert set(data.labels) == {"Mass", *names} - {"No Finding"}
    assert not noted(data, "by name") and not noted(data, "No labels")


# Columns that give the split


def with_cells(root, name, cells, **options):
    """Open data with labels a and b of 24 images, and a column with the cells repeated in turn."""
    text = "".join(f"i{i}.png,{'ab'[i % 5 % 2]},{cells[i % len(cells)]}\n" for i in range(24))
    make(root, *(f"i{i}.png" for i in range(24)))
    return opened(root, labels=table(root, f"image,label,{name}\n{text}"), **options)


@pytest.mark.parametrize(
    "name",
    ["cohort", "tvt", "usage", "data_split", "partition", "stage", "fold_type", "Purpose", "train_test", "x"],
)
def test_a_column_of_splits_is_used_whatever_its_name(tmp_path, name):
    data = with_cells(tmp_path, name, ["train", "train", "val", "Testing"])
    assert data.table["split"].tolist() == ["train", "train", "valid", "test"] * 6


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("is_holdout", "test"),
        ("holdout", "test"),
        ("in_train", "train"),
        ("used_for_test", "test"),
        ("held-out", "test"),
    ],
)
def test_a_flag_that_tells_the_split_is_used(tmp_path, name, split):
    data = with_cells(tmp_path, name, [1, 1, 1, 0], ignore_split=False)
    assert noted(data, f"Splits: 1 in '{name}' is {split}")
    assert all(found == split or i % 4 == 3 or split == "train" for i, found in enumerate(data.table["split"]))


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("Usage", ["Training", "PublicTest", "PrivateTest"]),
        ("data_split", [0, 1, 2]),
        ("partition", [0, 1, 1]),
        ("tvt", ["T", "V", "E"]),
        ("phase", [0, 0, 1]),
        ("fold_type", [1, 0, 1, 1]),
        ("train_val", [1, 1, 0]),
        ("Train/Test", ["T", "Te"]),
        ("mode", ["fit", "eval"]),
        ("external_test", [0, 0, 1]),
    ],
)
def test_a_column_that_may_tell_the_split_is_noted(tmp_path, name, cells):
    data = with_cells(tmp_path, name, cells)
    assert noted(data, f"'{name}' may contain the split", f"--split-col '{name}'", "with train, valid and test")
    make(tmp_path, *(f"{i}.png" for i in range(10)))
    assert with_flags(tmp_path, name).labels == ("Mass",)


@pytest.mark.parametrize(
    ("name", "cells", "expected", "note"),
    [
        ("cohort", ["development", "validation"], ["train", "valid"], "Splits: 'development' is train;"),
        ("split", ["dev", "holdout"], None, "Splits: 'dev' is train;"),
        ("data_split", ["internal", "External-test"], None, "'internal' is train"),
        ("set", ["train", "dev", "hold-out"], ["train", "valid", "test"], None),
    ],
)
def test_development_and_internal_mean_train_if_no_other_word_does(tmp_path, name, cells, expected, note):
    data = with_cells(tmp_path, name, cells)
    if expected:
        assert data.table["split"].tolist() == expected * (24 // len(cells))
    else:  # the validation split is drawn from train
        assert [split == "test" for split in data.table["split"]] == [False, True] * 12
    assert noted(data, note) if note else not noted(data, "Splits:")


@pytest.mark.parametrize(("name", "cells"), [("referral", ["internal", "external"]), ("cohort", ["internal", "pilot"])])
def test_other_columns_of_internal_and_external_are_no_splits(tmp_path, name, cells):
    assert "test" not in with_cells(tmp_path, name, cells).table["split"].tolist()


@pytest.mark.parametrize("name", ["stage_IV", "TB test", "test_positive", "advanced stage", "acute phase"])
def test_a_label_whose_name_contains_such_a_word_stays_a_label(tmp_path, name):
    make(tmp_path, *(f"{i}.png" for i in range(10)))
    assert with_flags(tmp_path, name).labels == tuple(sorted(("Mass", name), key=str.lower))


@pytest.mark.parametrize(("name", "cells"), [("stage", ["I", "II", "III"]), ("cohort", ["A", "B"])])
def test_a_column_that_only_has_such_a_name_needs_no_note(tmp_path, name, cells):
    assert not noted(with_cells(tmp_path, name, cells), "may contain the split")


# Columns of identifiers

PEOPLE = [f"{i // 2 * 37 + 1000}" for i in range(24)]


KEYS = {
    "patient": (
        *("Case", "case_id", "pat_no", "PatientName", "mrn", "subject", "person", "Hospital No Patient", "pt"),
        *("record_id", "anon_patient_id", "SUBJECT_KEY"),
    ),
    "study": ("visit_id", "series", "accession", "exam_id", "Session", "encounter_no", "scan_id"),
}


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, names in KEYS.items() for name in names])
def test_columns_of_patients_and_studies_by_their_names(tmp_path, key, name):
    data = with_cells(tmp_path, name, PEOPLE)
    assert data.table[key].nunique() == 12
    assert noted(data, f"{'patients' if key == 'patient' else 'studies'} from '{name}'")
    assert (data.table.groupby(key)["split"].nunique() == 1).all()


@pytest.mark.parametrize(
    ("name", "cells"),
    [("case", ["case", "control"]), ("case", [0, 1]), ("patient_age", PEOPLE), ("num_patients", [1, 2, 3]),
     ("record", range(24)), ("exam_name", ["Chest PA", "Chest AP", "Portable"])],
)  # fmt: skip
def test_other_columns_are_no_patients_or_studies(tmp_path, name, cells):
    data = with_cells(tmp_path, name, cells)
    assert data.table["patient"].isna().all() and data.groups is None


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("folder", [f"f{i // 3:02d}a" for i in range(24)]),
        ("who", [f"J{i // 2}. Smith" for i in range(24)]),
        ("visit", [i // 4 + 1 for i in range(24)]),
        ("family_id", [i // 3 * 11 for i in range(24)]),
        ("anonKey", [i // 2 * 11 for i in range(24)]),
        ("Fallnummer", [500000 + i // 2 for i in range(24)]),
        ("DNI", [30_123_456 + 1371 * (i // 2) for i in range(24)]),
    ],
)
def test_another_column_that_repeats_as_a_key_is_noted(tmp_path, name, cells):
    data = with_cells(tmp_path, name, cells)
    assert noted(
        data, "Not used, although their values repeat like identifiers", f"'{name}'", f"--patient-col '{name}' keeps"
    )
    assert with_cells(tmp_path, name, cells, patient_col=name).table["patient"].nunique() == len(set(cells))
    assert not noted(with_cells(tmp_path, name, cells, patient_col="none"), "Not used, although")


@pytest.mark.parametrize("start", [20_230_105, 202_301, 2_001, -100_010])
def test_dates_and_measurements_that_repeat_are_no_keys(tmp_path, start):
    assert not noted(with_cells(tmp_path, "taken", [start + i // 2 for i in range(24)]), "Not used, although")


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("width", [1000 + i // 2 for i in range(24)]),
        ("StudyTime", [101500 + i // 2 for i in range(24)]),
        ("date", [f"2020-01-{i // 2 + 1:02d}" for i in range(24)]),
        ("hash", [f"abc{i}" for i in range(24)]),
        ("device", ["A", "B", "C"]),
        ("report", [f"{i // 2} No acute cardiopulmonary abnormality is seen." for i in range(24)]),
    ],
)
def test_a_column_that_is_no_key_needs_no_note(tmp_path, name, cells):
    assert not noted(with_cells(tmp_path, name, cells), "Not used, although")


def test_a_key_within_the_patients_needs_no_note(tmp_path):
    text = "".join(f"i{i}.png,{'ab'[i // 2 % 2]},p{i // 4},s{i // 2}x\n" for i in range(24))
    make(tmp_path, *(f"i{i}.png" for i in range(24)))
    data = opened(tmp_path, labels=table(tmp_path, f"image,label,patient_id,mrn\n{text}"))
    assert not noted(data, "Not used, although")
    text = "".join(f"i{i}.png,{'ab'[i // 2 % 2]},p{i // 2},s{i // 4}x\n" for i in range(24))
    data = opened(tmp_path, labels=table(tmp_path, f"image,label,patient_id,mrn\n{text}"))
    assert noted(data, "Not used, although", "'mrn' (6 values on 24 rows)")


def test_columns_of_words_beside_columns_of_numbers_are_noted(data_dir):
    text = "image,Mass,Edema,sex\n" + "".join(f"{i}.png,{i % 2},{'yn'[i > 6]},FM\n" for i in range(10))
    data = opened(data_dir, labels=table(data_dir, text))
    assert data.labels == ("Mass",) and noted(
        data, "Not used as labels, because they contain words and other columns contain 1 and 0: 'Edema'."
    )
    assert opened(data_dir, labels=data_dir / "labels.csv", label_col=("Mass", "Edema")).targets.sum(0).tolist() == [
        7,
        5,
    ]


def test_columns_of_joint_labels_and_of_a_label_with_another_word(data_dir):
    text = "image,Mass,Edema,mass_edema,has_mass\n" + "".join(f"{i}.png,{i % 2},1,{i % 2},{i % 2}\n" for i in range(10))
    data = opened(data_dir, labels=table(data_dir, text))
    assert data.labels == ("Edema", "Mass", "mass_edema") and noted(data, "'Mass' (also 'has_mass')")
    assert noted(data, "'_' is in 1 column but is not used as a separator: 'mass_edema'. Each column is one label.")
    assert "'Mass' is 1 and 'has_mass' is 0" in message(
        DataError, data_dir, labels=table(data_dir, text.replace("9.png,1,1,1,1", "9.png,1,1,1,0"))
    )


@pytest.mark.parametrize("cells", [["1"] * 6 + [""] * 4, ["1"] * 6 + ["-1"] * 4, ["x"] * 6 + [""] * 4])
def test_images_without_a_1_in_a_flag_of_a_split_are_in_the_other(data_dir, cells):
    data = with_column(data_dir, "is_train", cells)
    assert [i for i in range(10) if splits(data)[f"{i}.png"] == "test"] == [6, 7, 8, 9]
    assert noted(data, "images without a 1 are test")


def test_a_cell_that_is_neither_1_nor_0_beside_those_is_no_flag_of_a_split(data_dir):
    text = "image,label,is_test\n" + "".join(f"{i}.png,{'NP'[i % 2]},{i % 2}\n" for i in range(10))
    file = table(data_dir, text.replace("4.png,N,0", "4.png,N,unknown"))
    assert "row 6: found a cell that is neither 1 nor 0, and no 1, in the column of test" in message(
        DataError, data_dir, labels=file
    )
    listed = table(data_dir, lines("image,split", "{i}.png,train").replace("train", "test", 3), "split.csv")
    assert counts(opened(data_dir, labels=file, split_file=listed))["test"] == 3


@pytest.mark.parametrize(
    ("name", "told"),
    [("leaderboard", True), ("kind", True), ("insurance", False), ("hospital", False), ("Funding type", False)],
)
def test_public_and_private_parts_of_a_test_set_are_noted(data_dir, name, told):
    rows = "".join(f"{i}.png,{'ab'[i % 2]},{('Public', 'Private')[i // 2 % 2]}\n" for i in range(10))
    data = opened(data_dir, labels=table(data_dir, f"image,label,{name}\n{rows}"))
    assert noted(data, f"'{name}' may contain the split") == told


@pytest.mark.parametrize(
    ("header", "test"), [("split_train,split_test", 4), ("set=train,set=test", 4), ("fold_1,fold_2", 0)]
)
def test_one_column_per_split_or_fold_is_no_label(data_dir, header, test):
    text = f"image,Mass,{header}\n" + "".join(f"{i}.png,{i % 2},{int(i < 6)},{int(i >= 6)}\n" for i in range(10))
    data = opened(data_dir, labels=table(data_dir, text))
    assert data.labels == ("Mass",) and counts(data)["test"] == test
    assert noted(data, "Splits: 1 in" if test else "'fold_2' (an identifier or a count)")


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("test_fold", "0000000011"),
        ("is_test", "1111111122"),
        ("is_val", "0000000022"),
        ("not_train", "0000000011"),
        ("unseen", "0000000011"),
    ],
)
def test_further_columns_that_may_tell_the_split_are_noted(data_dir, name, cells):
    data = with_column(data_dir, name, cells)
    assert noted(data, f"'{name}' may contain the split too, but is not used") and counts(data)["test"] == 0


def test_columns_of_0_and_of_indexes_and_names_in_quotes(data_dir):
    text = "image,'Mass',[Edema],Empty,Unnamed: 3,Unnamed: 0.1,M\n"
    text += "".join(f"{i}.png,{i % 2},{int(i > 6)},0,1,{i % 2},1\n" for i in range(10))
    data = opened(data_dir, labels=table(data_dir, text))
    assert data.labels == ("Edema", "M", "Mass")
    assert noted(data, "Not used as labels, because they contain 0 but no 1: 'Empty'.")
    assert noted(data, "Not used as labels, because of their names", "'Unnamed: 3'", "'Unnamed: 0.1'")
    assert noted(data, "a patient's sex", "'M'. If they are not labels")


def test_a_column_called_label_beside_others_of_1_and_0(data_dir):
    text = "image,label,Mass,Edema\n" + "".join(f"{i}.png,{i % 2},{int(i > 6)},{int(i < 2)}\n" for i in range(10))
    data = opened(data_dir, labels=table(data_dir, text))
    assert noted(data, "Labels are read from 'label'; other columns contain 1 and 0 too: 'Mass', 'Edema'.")
    assert noted(data, "'label' is the only label: this is a binary task") and not noted(data, "several labels or none")


@pytest.mark.parametrize(
    ("cells", "noted_as"),
    [(("no", "yes (mild)", "yes (severe)"), True), (("0", "1 - small", "1, large"), True),
     (("no", "mild", "severe"), False), (("1a", "1b", "2a"), False)],
)  # fmt: skip
def test_columns_of_flags_with_comments_are_noted(data_dir, cells, noted_as):
    text = "".join(f"{i}.png;{i % 2};{cells[i % 3]}\n" for i in range(10))
    data = opened(data_dir, labels=table(data_dir, f"image;Mass;Edema\n{text}"))
    assert data.labels == ("Mass",)
    assert noted(data, "Not used as labels, because some cells have words beside 1, 0, yes or no: 'Edema'") == noted_as


def test_columns_may_have_the_types_of_orange(data_dir):
    text = "m#image\tcD#label\tmS#patient\n" + "".join(f"{i}.png\t{'ab'[i % 2]}\tp{i // 2}\n" for i in range(10))
    data = opened(data_dir, labels=table(data_dir, text, "data.tab.tsv"))
    assert data.labels == ("a", "b") and data.table["patient"].nunique() == 5


@pytest.mark.parametrize("blank", ["", "NULL"])
def test_columns_without_any_value_are_not_used(data_dir, blank):
    text = "image,file,label,Mass,Edema,patient,mrn\n"
    text += "".join(f"{blank},{i}.png,{blank},{i % 2},{int(i < 2)},{blank},{i // 2}\n" for i in range(10))
    data = opened(data_dir, labels=table(data_dir, text))
    assert data.labels == ("Edema", "Mass") and data.table["patient"].nunique() == 5
    assert noted(data, "Not used as labels, because all cells are blank: 'label'.")
    assert not noted(data, "the names of other columns suggest labels too")
    text = "image,label\n" + "".join(f"{i}.png,{blank}\n" for i in range(10))
    assert "row 2: found" in message(DataError, data_dir, labels=table(data_dir, text))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("ensemble", ("entraînement", "validation", "test")),
        ("conjunto", ("treino", "validação", "teste")),
        ("划分", ("训练", "验证", "测试")),
        ("выборка", ("обучение", "валидация", "тест")),
        ("set", ("entrenamiento", "validación", "prueba")),
        ("التقسيم", ("تدريب", "تحقق", "اختبار")),
        ("grp", ("huấn luyện", "xác thực", "kiểm tra")),
    ],
)
def test_splits_in_other_languages(tmp_path, column, words):
    root = make(tmp_path / "table", *(f"{i}.png" for i in range(12)))
    cells = "".join(f"{i}.png,{'ab'[i % 2]},{words[i // 2 % 3]}\n" for i in range(12))
    data = opened(root, labels=table(root, f"image,label,{column}\n{cells}"))
    assert [splits(data)[f"{2 * i}.png"] for i in range(3)] == ["train", "valid", "test"]
    folders = make(tmp_path / "folders", *(f"{word}/{c}/{i}.png" for word in words for c in "ab" for i in range(3)))
    assert splits(opened(folders))[f"{words[1]}/a/0.png"] == "valid"


@pytest.mark.parametrize(
    "words", [("jeu de train", "jeu de test"), ("uczący zbiór", "zbiór testowy 1"), ("trénování", "test")]
)
def test_few_cells_that_sound_like_splits_are_noted(tmp_path, words):
    root = make(tmp_path, *(f"{i}.png" for i in range(12)))
    cells = "".join(f"{i}.png,{'ab'[i % 2]},{words[i // 2 % 2]}\n" for i in range(12))
    data = opened(root, labels=table(root, f"image,label,grp\n{cells}"))
    assert noted(data, "'grp' may contain the split too, but is not used", words[0]) or "test" in splits(data).values()


def test_folders_that_sound_like_splits_are_noted(tmp_path):
    root = make(
        tmp_path, *(f"{s}/{c}/{s}{i}.png" for s in ("uczący zbiór", "zbiór testowy") for c in "ab" for i in range(6))
    )
    assert noted(opened(root), "Names of files or folders suggest splits (test 12, train 12)")


def test_a_word_in_a_column_of_crosses_is_an_error(tmp_path):
    root = make(tmp_path, *(f"{i}.png" for i in range(12)))
    text = "image,label,is_test\n" + "".join(f"{i}.png,{'ab'[i % 2]},{{}}\n" for i in range(12))
    marks = ["1" if i % 3 == 0 else "" for i in range(12)]
    assert list(splits(opened(root, labels=table(root, text.format(*marks)))).values()).count("test") == 4
    found = message(DataError, root, labels=table(root, text.format(*(mark or "unknown" for mark in marks))))
    assert "neither 1 nor 0" in found and "8 rows" in found


def test_words_of_splits_that_are_not_known_are_listed(tmp_path):
    root = make(tmp_path, *(f"{i}.png" for i in range(12)))
    text = "image,label,split\n" + "".join(
        f"{i}.png,{'ab'[i % 2]},{['trainval', 'unseen'][i // 6]}\n" for i in range(12)
    )
    found = message(DataError, root, labels=table(root, text))
    assert "'unseen' in 6 rows; images of an external or held-out split belong to test" in found
    data = opened(root, labels=table(root, text.replace("unseen", "holdout")))
    assert splits(data)["11.png"] == "test" and set(splits(data).values()) == {"train", "valid", "test"}


def test_folders_of_folds_with_the_same_files_are_noted(tmp_path):
    files = [
        f"fold{f}/{s}/{c}/{c}{s}{i}.png" for f in (1, 2) for s in ("train", "test") for c in "ab" for i in range(5)
    ]
    assert noted(
        opened(make(tmp_path / "same", *files)), "fold1, fold2 look like folds of a cross-validation", "--folds"
    )
    other = [file.replace("fold", "cv") for file in files]
    assert noted(opened(make(tmp_path / "cv", *other)), "cv1, cv2 look like folds")
    own = [file.replace("/a/a", f"/a/{i}").replace("/b/b", f"/b/{i}") for i, file in enumerate(files)]
    assert not noted(opened(make(tmp_path / "own", *own)), "look like folds")


def test_columns_of_scores_up_to_100_are_noted_and_measurements_are_not(tmp_path):
    root = make(tmp_path, *(f"{i}.png" for i in range(12)))
    text = "image,Mass,Edema,bmi,label_of_ai\n" + "".join(
        f"{i}.png,{i % 2},{8 * i},{20.5 + i},{i}\n" for i in range(12)
    )
    data = opened(root, labels=table(root, text))
    assert data.labels == ("Mass",) and noted(
        data, "Not used as labels, because they contain scores", "'Edema'. Labels must be 1 or 0"
    )
    assert not noted(data, "scores", "bmi")
    one = table(root, "image,label\n" + "".join(f"{i}.png,{8 * i}\n" for i in range(12)))
    assert "found scores, such as fractions between 0 and 1, in 'label'" in message(DataError, root, labels=one)


def test_columns_of_labels_in_one_text_are_explained(tmp_path):
    root = make(tmp_path, *(f"{i}.png" for i in range(12)))
    file = table(root, "image,Mass,Edema\n" + "".join(f"{i}.png,{i % 2},1\n" for i in range(12)))
    found = message(DataError, root, labels=file, label_col=("Mass, Edema",))
    assert "label_col=('Mass', 'Edema')." in found


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("original_path", [f"cxr\\{split}\\{{i}}.png" for split in ("train", "test")]),
        *[("eval", ["0", "1"]), ("exclude_from_train", ["0", "1"]), ("sample", ["in-sample", "out-of-sample"])],
    ],
)
def test_paths_and_other_columns_that_may_tell_the_split_are_noted(data_dir, name, cells):
    rows = "".join(f"{i}.png,{'ab'[i // 2 % 2]},{cells[i % 2].format(i=i)}\n" for i in range(10))
    data = opened(data_dir, labels=table(data_dir, f"image,label,{name}\n{rows}"))
    assert noted(data, f"'{name}' may contain the split too, but is not used")
    note = opened(data_dir, labels=table(data_dir, f"image,label,{name}\n{rows}".replace("test", "extra")))
    assert name != "original_path" or not noted(note, "may contain the split")


@pytest.mark.parametrize("splits", [("train", "test"), ("tr", "te")])
@pytest.mark.parametrize("name", ["{ab}_{i}_{split}.png", "{split}{i}{ab}.png", "{split}-{ab}-{i}.png"])
def test_files_named_for_splits_are_noted(tmp_path, name, splits):
    files = (f"{ab}/{name.format(ab=ab, i=i, split=split)}" for ab in "ab" for split in splits for i in range(5))
    assert noted(opened(make(tmp_path, *files)), "suggest splits (test 10, train 10)")
    assert not noted(opened(classes(tmp_path / "plain", a=6, tr=6)), "suggest splits")


@pytest.mark.parametrize("name", ["test_list.txt", "train.csv", "splits.csv", "val_ids.txt", "split.csv"])
@pytest.mark.parametrize("has_table", [True, False])
def test_lists_of_splits_that_are_not_used_are_named(tmp_path, name, has_table):
    make(tmp_path, *(f"{'images' if has_table else 'ab'[i % 2]}/{i}.png" for i in range(10)))
    if has_table:
        table(tmp_path, "image,label\n" + "".join(f"images/{i}.png,{'ab'[i % 2]}\n" for i in range(10)))
    for other in (name, "test results.csv"):
        table(tmp_path, "image,split\n0.png,test\n", other)
    assert noted(
        opened(tmp_path), f"Not used, although the names suggest splits: {name}. To use one, name it with --split-file"
    )


@pytest.mark.parametrize("name", ["X_ray_image_name", "PngPath", "Bild", "画像"])
def test_the_only_column_of_image_names_holds_the_images(data_dir, name):
    text = "".join(f"{i},{i}.png,{'NP'[i % 2]}\n" for i in range(10))
    data = opened(data_dir, labels=table(data_dir, f"nr,{name},label\n{text}"))
    assert len(data.table) == 10 and noted(data, f"images from '{name}'")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("DicomPath,PngPath,label", "'DicomPath', 'PngPath' hold names of images"),
        ("0.dcm,x,label", "The first line holds an image too: put a line of column names before it"),
    ],
)
def test_two_columns_of_image_names_or_no_header_are_an_error(data_dir, header, found):
    second = "{i}.png" if "Path" in header else "{i}"
    text = lines(header, f"{{i}}.dcm,{second},{{ab}}")
    assert found in message(DataError, data_dir, labels=table(data_dir, text))


def test_folders_of_folds_with_files_of_their_own_are_noted(tmp_path):
    files = [f"{c}/Fold_{f}/{c}{f}{i}.png" for f in "ABC" for c in "ab" for i in range(5)]
    assert noted(opened(make(tmp_path / "letters", *files)), "Fold_A, Fold_B, Fold_C look like folds")
    for shape in ("{c}/fold{f}/{c}{f}{i}.png", "fold{f}/{c}/{c}{f}{i}.png"):
        files = [shape.format(f=f, c=c, i=i) for f in (1, 2, 3) for c in "ab" for i in range(5)]
        assert noted(
            opened(make(tmp_path / shape[:3], *files)),
            "The folders fold1, fold2, fold3 look like folds of a cross-validation, which are not used as splits.",
        )


def test_images_of_another_modality_by_the_table_are_counted(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(12)))
    for name, cells in (
        ("modality", ["X-RAY CHEST", "CT"]),
        ("Imaging Modality", ["CR/DX", "MR"]),
        ("Modality", ["CR", ""]),
    ):
        text = "".join(f"{i}.png,{'ab'[i % 4 // 2]},{cells[i % 2]}\n" for i in range(12))
        data = opened(tmp_path, labels=table(tmp_path, f"image,label,{name}\n{text}"))
        said = f"6 images of another modality than radiography according to '{name}' ({cells[1]} 6)"
        assert noted(data, said) == bool(cells[1])


@pytest.mark.parametrize(
    ("name", "cells", "said"),
    [
        ("BodyPart", ["CHEST", "ABDOMEN"], "of another part of the body than the chest"),
        ("StudyDescription", ["XR CHEST", "XR KNEE 2 VIEWS"], "of another part of the body than the chest"),
        ("SeriesDescription", ["W Chest PA", "W Chest Lat."], "with a lateral view"),
        ("region", ["north", "south"], ""),
    ],
)
def test_images_that_are_no_frontal_chest_radiographs_by_the_table_are_counted(tmp_path, name, cells, said):
    make(tmp_path, *(f"{i}.png" for i in range(12)))
    text = "".join(f"{i}.png,{'ab'[i % 4 // 2]},{cells[i % 2]}\n" for i in range(12))
    data = opened(tmp_path, labels=table(tmp_path, f"image,label,{name}\n{text}"))
    assert noted(data, f"6 images {said} according to '{name}' ({cells[1]} 6)") == bool(said)


def test_columns_of_readers_alone_are_named(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(12)))
    text = "".join(f"{i}.png,{i % 2},{int(i > 5)}\n" for i in range(12))
    data = opened(tmp_path, labels=table(tmp_path, f"image,reader1,reader2\n{text}"))
    assert data.labels == ("reader1", "reader2") and noted(data, "The names of 'reader1', 'reader2' suggest readers")
    assert not noted(opened(tmp_path, labels=table(tmp_path, f"image,Mass,Edema\n{text}")), "suggest readers")


def test_folders_of_deleted_files_are_no_classes(tmp_path):
    make(tmp_path, *(f"{c}/{c}{i}.png" for c in ("a", "b", "$RECYCLE.BIN", "lost+found") for i in range(6)))
    assert opened(tmp_path).labels == ("a", "b")
