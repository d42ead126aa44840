from __future__ import annotations

import pytest

from xrayfast.data.labels.words import (
    copied_label,
    find_unlabeled,
    is_missing,
    is_normal,
    may_be_no_class,
    plain_label,
    uncertain_label,
)


@pytest.mark.parametrize(
    "name",
    [
        *("normal (1)", "Copy of normal", "normal - Copy", "normal copy 2", "normal_copy", "Copy (2) of normal"),
        *("normal - Copy (2)", "normal (copy)", "normal (another copy)", "normal (3rd copy)", "normal.1"),
        *("Copy of normal (1)", "Kopie von normal", "normal - Kopie", "copia de normal", "NORMAL - COPY"),
    ],
)
def test_names_of_copies(name):
    assert copied_label(name).lower() == "normal"


@pytest.mark.parametrize("name", ["normal", "grade 1.2", "stage (IIa)", "copy", "photocopy", "covid-19", "copyright"])
def test_names_that_are_no_copies(name):
    assert not copied_label(name)


@pytest.mark.parametrize(
    "name", ["unlikely mass", "r mass", "mass", "?", "query", "impossible mass", "probiotic", "Is there a mass?"]
)
def test_names_that_are_certain(name):
    assert not uncertain_label(name)


def test_folders_without_labels():
    folders = [
        "unlabeled",
        "Un-labelled",
        "unknown",
        "unsure",
        "todo",
        "to_do",
        "TBD",
        "excluded",
        "not labeled",
        "trash",
    ]
    assert find_unlabeled([*folders, "normal", "other", "known", "label", "none"]) == folders
    assert find_unlabeled(["unknown", "todo"], {"Unknown"}) == ["todo"]
    assert find_unlabeled(["00_unlabeled", "unlabeled images", "to review", "1"]) == [
        *("00_unlabeled", "unlabeled images", "to review"),
    ]
    doubtful = [
        "backup",
        "misc",
        "New folder",
        "temp",
        "?",
        "nan",
        "bad",
        "99_old",
        "bad_quality",
        "__pycache__",
        "to_check",
        "todo",
    ]
    assert list(filter(may_be_no_class, [*doubtful, "normal", "01_normal", "other"])) == doubtful


@pytest.mark.parametrize(
    "name", ["has_mass", "Mass_gt", "mass present", "label_mass", "Mass (1)", "mass.1", "is mass", "mass_flag"]
)
def test_names_of_columns_of_one_label(name):
    assert plain_label(name).lower() == "mass" and not plain_label("mass")


@pytest.mark.parametrize(
    "cell",
    [
        *("pending review", "n/a (see report)", "xx", "illegible", "see comment", "\\N"),
        *("#NV", "#BEZUG!", "#N/D", "#\u0421\u0421\u042b\u041b\u041a\u0410!", "#\u00a1REF!", "#NOM?", "Loading..."),
    ],
)
def test_words_of_missing_cells(cell):
    assert is_missing(cell) and not is_missing(f"{cell} mass")


@pytest.mark.parametrize(
    "cell",
    ["sconosciuto", "non renseigné", "keine Angabe", "k.A.", "okänd", "неизвестно", "未知", "sin datos"],
)
def test_words_of_missing_cells_in_other_languages(cell):
    assert is_missing(cell) and is_missing(cell.upper()) and find_unlabeled([cell, "normal"]) == [cell]
    assert not is_missing(cell, {cell})


@pytest.mark.parametrize(
    "label",
    ["WNL", "NF", "clear", "Healthy", "none found", "lungs clear", "sin hallazgos", "o.B.", "正常"],
)
def test_words_that_deny_findings(label):
    assert is_normal(label) and not is_normal(f"{label} mass")
