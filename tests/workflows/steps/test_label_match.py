"""The labels of a data set are matched with those of a network."""

import numpy as np
import pytest

from tests.data.builders import classes, make, table
from xrayfast.config import DataConfig
from xrayfast.data.open_manifest import open_manifest
from xrayfast.errors import DataError
from xrayfast.workflows.steps.label_match import match_labels


def opened(source, **options):
    """Open a data set as `evaluate` does."""
    return open_manifest(DataConfig(source=source, **{"task": "multi", **options}), to_train=False)


def flags(root, header, *rows, **options):
    """Open a table with a 0/1 column per label and a row for each of 0.png, 1.png, ..."""
    make(root, *(f"{i}.png" for i in range(len(rows))))
    table(root, "\n".join([f"image,{header}", *(f"{i}.png,{row}" for i, row in enumerate(rows))]) + "\n")
    return opened(root, **options)


def test_labels_unknown_to_the_network_are_dropped_and_lacking_ones_are_masked(tmp_path):
    data = flags(tmp_path, "Effusion,Fracture,Mass", "1,1,0", "0,1,0", "0,0,1")
    found = match_labels(data, ("Edema", "Effusion", "Mass"), "multi")
    assert found.truth.tolist() == [[-1, 1, 0], [-1, 0, 0], [-1, 0, 1]]
    assert (found.used, found.unknown, found.lacking) == (("Effusion", "Mass"), (("Fracture", 2),), ("Edema",))
    assert found.usable.all() and found.left_out == ()


def test_a_column_without_a_1_tells_that_images_lack_the_label(tmp_path):
    """Images without an effusion still count for its specificity."""
    data = flags(tmp_path, "Effusion,Mass", "0,1", "0,0", "0,1", label_col=("Effusion", "Mass"))
    assert data.labels == ("Effusion", "Mass")
    assert match_labels(data, ("Effusion", "Mass"), "multi").truth.tolist() == [[0, 1], [0, 0], [0, 1]]


def test_masked_cells_stay_masked_and_images_with_no_others_are_left_out(tmp_path):
    data = flags(tmp_path, "Effusion,Mass,Fracture", "-1,1,1", "-1,,1", "0,0,1")
    found = match_labels(data, ("Effusion", "Mass"), "multi")
    assert found.truth.tolist() == [[-1, 1], [-1, -1], [0, 0]]
    assert found.usable.tolist() == [True, False, True]
    assert found.left_out == (("without a known value for any of the network's labels", 1),)


def test_spellings_are_one_label_and_a_note_says_so(tmp_path):
    data = flags(tmp_path, "effusion,Pleural thickening,EFFUSION", "1,0,1", ",1,1", "0,0,0")
    found = match_labels(data, ("Effusion", "Pleural_Thickening"), "multi")
    assert found.truth.tolist() == [[1, 0], [1, 1], [0, 0]]
    assert "'effusion' in the data is the network's 'Effusion'." in found.notes
    assert "'Pleural thickening' in the data is the network's 'Pleural_Thickening'." in found.notes


def test_a_spelling_that_fits_two_labels_is_not_guessed(tmp_path):
    data = flags(tmp_path, "grade,Mass", "1,0", "0,1", "0,0")
    found = match_labels(data, ("Grade", "GRADE", "Mass"), "multi")
    assert found.used == ("Mass",) and found.unknown == (("grade", 1),)


def test_other_names_are_hinted_at_and_never_guessed(tmp_path):
    data = flags(tmp_path, "Pleural Effusion,Mass", "1,0", "0,1", "0,0")
    found = match_labels(data, ("Effusion", "Mass"), "multi")
    assert found.lacking == ("Effusion",)
    (note,) = found.notes[:1]
    assert "has no label 'Pleural Effusion'. Did you mean 'Effusion'?" in note
    assert "--label-map FILE merges names, with a line such as 'Effusion = Pleural Effusion'" in note


def test_a_label_map_gives_the_network_s_names(tmp_path):
    flags(tmp_path / "data", "Pleural Effusion,Lump", "1,0", "0,1", "0,0")
    (tmp_path / "map.txt").write_text("effusion = Pleural effusion\nMass = Lump, Tumour\n")
    data = opened(tmp_path / "data", label_map=tmp_path / "map.txt")
    found = match_labels(data, ("Effusion", "Mass"), "multi")  # the map's own spelling differs from the network's
    assert found.truth.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert (found.unknown, found.lacking) == ((), ())


def test_nothing_in_common(tmp_path):
    with pytest.raises(DataError) as caught:
        match_labels(opened(classes(tmp_path, cat=1, dog=1)), ("Effusion", "Mass"), "multi")
    example = "'Effusion = ITS NAME IN THE DATA'"
    for words in ("no label in common", "Effusion, Mass", "cat, dog", "label_map=FILE", example):
        assert words in str(caught.value)


def test_multi_label_on_class_folders(tmp_path):
    data = opened(classes(tmp_path, mass=1, normal=2))
    found = match_labels(data, ("edema", "mass"), "multi")
    assert found.truth.tolist() == [[-1, 1], [-1, 0], [-1, 0]]
    (note,) = found.notes
    assert note == (
        "Each image in the data has one label, so its other labels are counted as absent. Images of normal have none "
        "of the network's labels."
    )
    assert found.usable.all()


def test_implications_of_training_hold_in_an_external_test(tmp_path):
    data = opened(classes(tmp_path / "a", covid=1, normal=1, pneumonia=1))
    found = match_labels(data, ("covid", "pneumonia"), "multi", ["covid=pneumonia"])
    assert found.truth.tolist() == [[1, 1], [0, 0], [0, 1]]
    assert "As in training, covid=pneumonia: 1 label added." in found.notes
    lacking = match_labels(
        opened(classes(tmp_path / "b", covid=1, normal=1)), ("covid", "pneumonia"), "multi", ["covid=pneumonia"]
    )
    assert lacking.truth.tolist() == [[1, -1], [0, -1]]


def test_single_label_on_class_folders(tmp_path):
    data = opened(classes(tmp_path, effusion=2, normal=1, mass=1))
    found = match_labels(data, ("covid", "mass", "normal"), "single")
    kept = np.flatnonzero(found.usable)
    assert found.truth[kept].tolist() == [[0, 1, 0], [0, 0, 1]]
    assert (found.unknown, found.lacking) == ((("effusion", 2),), ("covid",))
    assert found.left_out == (("without any of the network's classes", 2),)


def test_single_label_on_multi_label_data(tmp_path):
    data = flags(tmp_path, "Effusion,Mass,Fracture", "1,0,0", "1,1,0", "0,0,1", "0,1,1", "1,-1,0")
    found = match_labels(data, ("Effusion", "Mass"), "single")
    assert found.usable.tolist() == [True, False, False, True, False]
    assert found.truth[found.usable].tolist() == [[1, 0], [0, 1]]
    assert found.left_out == (
        ("without any of the network's classes", 1),
        ("with several of the network's classes", 1),
        ("with an uncertain class", 1),
    )


def test_images_of_no_label_are_explained_to_a_single_label_network(tmp_path):
    data = flags(tmp_path, "Effusion,Mass", "0,1", "0,0", "1,0", "0,0", "-1,0")
    found = match_labels(data, ("Effusion", "Mass", "normal"), "single")
    assert found.usable.tolist() == [True, False, True, False, False]
    assert ("without any of the network's classes", 2) in found.left_out
    (note,) = [note for note in found.notes if "without a label" in note]
    assert note.startswith("2 images without a label left out") and "If they are 'normal', add a column" in note
    assert not [note for note in match_labels(data, ("Effusion", "Mass"), "multi").notes if "without a label" in note]


def test_classes_of_only_one_side_are_named(tmp_path):
    data = opened(classes(tmp_path, effusion=2, normal=1, mass=1))
    notes = match_labels(data, ("covid", "mass", "normal"), "single").notes
    assert "The network does not have 'effusion' (2 images); images with no other label are left out." in notes
    assert "The data have no image of 'covid', so the metrics do not apply to such images." in notes


@pytest.mark.parametrize(
    ("own", "known"), [("tb", "Tuberculosis"), ("healthy", "normal"), ("LO", "Lung Opacity"), ("crohns", "Crohn's")]
)
def test_a_label_of_the_data_that_may_be_one_of_the_network_under_another_name_is_noted(tmp_path, own, known):
    notes = match_labels(opened(classes(tmp_path, **{own: 2, "mass": 2})), (known, "mass"), "single").notes
    assert any(f"Did you mean '{known}'?" in note and f"'{known} = {own}'" in note for note in notes)


def test_no_advice_joins_a_label_with_one_that_denies_it(tmp_path):
    data = opened(classes(tmp_path, **{"no_effusion": 1, "mass": 2}))
    assert not any("Did you mean" in note for note in match_labels(data, ("Effusion", "Mass"), "multi").notes)
    with pytest.raises(DataError, match="'Effusion = ITS NAME IN THE DATA'"):
        match_labels(
            opened(classes(tmp_path / "other", no_effusion=1, without_edema=1)), ("Effusion", "Edema"), "multi"
        )
