"""Images of a view or an age that a run was not validated on are named, and so are images that count twice."""

import numpy as np
import pytest
from PIL import Image

import xrayfast as xf
from xrayfast.workflows.steps.evaluation.population import note_given_test, note_other_population
from xrayfast.workflows.steps.seen import _note_repeated


@pytest.mark.parametrize(
    ("name", "own", "new", "expected"),
    [
        (
            "view",
            ["PA", "AP", ""],
            ["LATERAL", "LL", "PA"],
            "2 images with a lateral view, while",
        ),
        (
            "view",
            ["LATERAL"],
            ["PA"],
            "1 image with a frontal view, while there is none among the 1 image of known view that",
        ),
        ("view", ["PA", "LATERAL"], ["LATERAL", "AP"], ""),
        ("view", ["", ""], ["LATERAL"], ""),
        ("view", ["PA"], ["", "OBLIQUE", "AP"], ""),
        (
            "age",
            [18.0, 90.0, np.nan],
            [3.0, np.nan, 17.9],
            "2 images of patients under 18, while",
        ),
        ("age", [3.0], [40.0], "1 image of patients of 18 years or more"),
        ("age", [3.0, 40.0], [3.0, 40.0], ""),
        ("sex", ["F"], ["M"], ""),
    ],
)
def test_a_group_without_validation_images_is_named(name, own, new, expected):
    own, new = (np.array(values, float if name == "age" else object) for values in (own, new))
    notes = note_other_population({name: own}, {name: new})
    assert len(notes) == bool(expected) and "".join(notes).startswith(expected)
    assert note_other_population({}, {name: new}) == note_other_population({name: own}, {}) == []


def test_equal_images_are_named_and_contradicting_labels_too():
    truth = np.array([[1, 0], [1, 0], [0, 1], [1, -1]])
    [copies, wrong] = _note_repeated(["a", "b", "c", "d"], ["00", "11", "00", "11"], truth)
    assert copies == "2 images with the pixels of another one, each evaluated: c (as a), d (as b)."
    assert wrong == "1 image with the pixels of another one, but other labels, of which one is wrong: c (as a)."
    assert _note_repeated(["a", "b"], ["00", "11"], truth[:2]) == []


@pytest.mark.parametrize("given", [True, False])
def test_a_given_test_split_of_other_patients_is_named(tmp_path, given):
    rows = [f"{i}.png,{'ab'[i % 2]},{50 if i < 14 else 4},{'train' if i < 14 else 'test'}" for i in range(20)]
    for i in range(20):
        Image.new("L", (4, 4)).save(tmp_path / f"{i}.png")
    (tmp_path / "labels.csv").write_text("image,label,age,split\n" + "\n".join(rows))
    options = {} if given else {"ignore_split": True, "test_fraction": 0.3}
    data = xf.open_data(tmp_path, labels=tmp_path / "labels.csv", **options)
    found = "".join(note_given_test(data))
    assert found.startswith("Test split: 6 images of patients under 18, while there is none among ") == given
    assert bool(found) == given
