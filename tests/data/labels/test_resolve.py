"""Spellings of one label are one label, wherever they are found."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.builders import classes, lines, make, message, noted, opened, rows, table
from xrayfast.config import DataConfig
from xrayfast.data.open_manifest import open_manifest
from xrayfast.errors import DataError
from xrayfast.workflows.steps.label_match import match_labels

SPELLINGS = [
    "Pulmonary Fibrosis",
    "Pulmonary fibrosis",
    "pulmonary_fibrosis",
    "PULMONARY-FIBROSIS ",
    "'Pulmonary Fibrosis'",
]


@pytest.fixture
def data_dir(tmp_path):
    """A folder with 0.png to 9.png."""
    return make(tmp_path, *(f"{i}.png" for i in range(10)))


def label_column(root, labels, **options):
    text = "".join(f'{i}.png,"{label}"\n' for i, label in enumerate(labels))
    return opened(root, labels=table(root, "image,label\n" + text), **options)


def test_spellings_in_a_column_are_the_most_frequent_of_them(data_dir):
    data = label_column(data_dir, ["Normal", "normal", "NORMAL", "normal", *SPELLINGS, "[Pulmonary Fibrosis]"])
    assert data.labels == ("normal", "Pulmonary Fibrosis") and data.task == "single"
    assert data.targets.sum(0).tolist() == [4, 6]
    assert noted(
        data,
        "'normal' (also 'Normal', 'NORMAL')",
        "'Pulmonary Fibrosis' (also 'Pulmonary fibrosis'",
        "'pulmonary_fibrosis'",
        "--exact-labels",
    )


def test_of_spellings_that_look_the_same_the_plain_one_is_kept_and_the_others_are_escaped(data_dir):
    odd = ["b\xa0c", "\u2018a\u2019", "e\u0301"]
    data = label_column(data_dir, [*odd * 2, "e\u0301", "b c", "a", "\xe9"])
    assert data.labels == ("a", "b c", "\xe9")
    assert noted(data, r"'b c' (also 'b\xa0c')", "'\xe9' (also 'e\\u0301')")


def test_spellings_are_kept_apart_where_that_is_asked_for(data_dir):
    data = label_column(data_dir, ["a", "A"] * 5, exact_labels=True)
    assert data.labels == ("A", "a") and not noted(data, "joined")
    assert not noted(label_column(data_dir, ["a", "b"] * 5), "joined")


@pytest.mark.parametrize(
    ("labels", "joined"),
    [
        (["0", "1", "2", "0.0", "1.0", "2.0", "00", "01", "2.", "2"], ("0", "1", "2")),
        (["thorax\u00e9", "thoraxe\u0301", "thorax\u00e9", "b"] + ["b"] * 6, ("b", "thorax\u00e9")),
        (
            ["grade 1", "Grade-1.0", "grade 1"] + ["grade 12", "grade 1-2"] * 3 + ["grade 12"],
            ("grade 1", "grade 1-2", "grade 12"),
        ),
        (["-1", "1"] * 4 + ["2", "2"], ("-1", "1", "2")),
        (["1.5", "1.50", "1.5", "+1.5", "1,5", "01.500", "15e-1", "\uff11.5"] + ["2"] * 2, ("1.5", "2")),
        (["1,000", "1", "1000", "1,000"] * 2 + ["1", "1000"], ("1", "1,000", "1000")),
        (["7.0000001", "0", "70000001e-7", "-0", "7", "7.", "0", "7", "7e0", "0"], ("0", "7", "7.0000001")),
        (["v1.1", "v1.10"] * 5, ("v1.1", "v1.10")),
        (
            ["normal (1)"] * 3 + ["Copy of Normal", "normal - Copy", "normal copy 2", "normal", "b", "b", "b"],
            ("normal", "b"),
        ),
        (["HIV+", "HIV-", "HIV"] * 3 + ["HIV"], ("HIV", "HIV-", "HIV+")),
        (["Normal.", "Normal", "a\u200bb", "ab", "ab", "\ufeffNormal", "Normal", "ab", "ab", "ab"], ("ab", "Normal")),
    ],
)
def test_which_names_are_spellings_of_one_label(data_dir, labels, joined):
    assert set(label_column(data_dir, labels).labels) == set(joined)


def test_spellings_in_several_labels_of_a_cell_and_in_lists(data_dir):
    data = label_column(
        data_dir, ["Mass|mass", "Edema|MASS", "edema", "Mass", "['mass', 'Edema']", "Mass"] + ["Edema"] * 4
    )
    assert data.labels == ("Edema", "Mass")
    assert [rows(data)[f"{i}.png"] for i in (0, 1, 2, 4)] == ["Mass", "Edema|Mass", "Edema", "Edema|Mass"]


def test_spellings_in_headers(data_dir):
    text = lines("image,Pleural Effusion,pleural_effusion,Mass.1,Mass", "{i}.png,1,1,,0", 5)
    text += "".join(f"{i}.png,{'01'[i == 5]},,1,{['', '1'][i == 6]}\n" for i in range(5, 10))
    file = table(data_dir, text)
    data = opened(data_dir, labels=file)
    assert data.labels == ("Mass", "Pleural Effusion") and data.targets.sum(0).tolist() == [5, 6]
    assert not np.isnan(data.targets).any()
    assert noted(data, "'Pleural Effusion' (also 'pleural_effusion')", "'Mass' (also 'Mass.1')")
    assert opened(data_dir, labels=file, exact_labels=True).labels == (
        *("Mass", "Mass.1", "Pleural Effusion", "pleural_effusion"),
    )


@pytest.mark.parametrize("cells", ["0,1", "1,0", "-1,1", "0,-1"])
def test_headers_that_are_spellings_and_contradict_each_other_are_an_error(data_dir, cells):
    text = lines("image,Edema,Mass,mass", "{i}.png,1,0,0", 5) + lines("5.png,0,1,1", "{i}.png,0,1,1", 0)
    file = table(data_dir, text + f"6.png,0,{cells}\n7.png,1,{cells}\n8.png,1,,1\n")
    found = message(DataError, data_dir, labels=file)
    one, other = cells.split(",")
    assert f"labels.csv row 8: found that 'Mass' is {one} and 'mass' is {other}, although both are spellings" in found
    assert "Rows like this: 2" in found and "label_col=" in found and "exact_labels=True" in found
    assert opened(data_dir, labels=file, label_col=("Edema", "Mass")).labels == ("Edema", "Mass")
    assert opened(data_dir, labels=file, exact_labels=True).labels == ("Edema", "Mass", "mass")
    # A run of an older version joined them, and still opens in the same way.
    again = open_manifest(DataConfig(source=data_dir, labels=file), known_labels=("Edema", "Mass"))
    assert again.labels == ("Edema", "Mass") and (cells != "0,1" or cells_of(again)["6.png"] == [0, 1])


def test_a_header_without_a_1_that_is_a_spelling_of_a_label_counts(data_dir):
    text = "image,Mass,MASS,Edema\n" + "".join(f"{i}.png,{['1,,0', ',0,1', '0,,1'][i % 3]}\n" for i in range(10))
    data = opened(data_dir, labels=table(data_dir, text))
    assert data.labels == ("Edema", "Mass") and not np.isnan(data.targets).any() and data.targets[:, 1].sum() == 4
    found = message(DataError, data_dir, labels=table(data_dir, text.replace("9.png,1,,0", "9.png,1,0,0")))
    assert "labels.csv row 11: found that 'Mass' is 1 and 'MASS' is 0" in found


def cells_of(data):
    return dict(zip(data.table["image"], data.targets.tolist(), strict=True))


def test_columns_that_a_label_map_joins_are_counted_where_they_differ(data_dir):
    (data_dir / "map.txt").write_text("Opacity = Consolidation, Infiltrate\n")
    file = table(
        data_dir, lines("image,Consolidation,Infiltrate,Mass", "{i}.png,1,0,0", 4) + "4.png,0,0,1\n5.png,1,1,1\n"
    )
    data = opened(data_dir, labels=file, label_map=data_dir / "map.txt")
    assert data.labels == ("Mass", "Opacity") and data.targets.sum(0).tolist() == [2, 5]
    assert noted(data, "'Consolidation', 'Infiltrate' are joined, but differ (1 and 0) on 4 images: 1 is used.")


def test_spellings_in_folders_and_in_folders_of_splits(tmp_path):
    data = opened(classes(tmp_path / "flat", NORMAL=3, Normal=2, pneumonia=4))
    assert data.labels == ("NORMAL", "pneumonia") and data.targets.sum(0).tolist() == [5, 4]
    assert noted(data, "'NORMAL' (also 'Normal')")
    classes(tmp_path / "split" / "train", Normal=3, covid_19=3)
    classes(tmp_path / "split" / "valid", **{"NORMAL": 2, "COVID-19": 1})
    data = opened(tmp_path / "split")
    assert data.labels == ("covid_19", "Normal")


def test_a_copy_in_the_folder_of_another_spelling_is_one_image(tmp_path):
    classes(tmp_path, Normal=3, b=3)
    make(tmp_path, "normal/x.png", "Normal/x.png", content="same")
    data = opened(tmp_path, task="single")
    assert len(data) == 7 and data.targets.sum(0).tolist() == [3, 4]


def test_implications_and_policies_use_any_spelling(data_dir):
    text = lines("image,COVID-19,Pneumonia", "{i}.png,1,0", 5) + "".join(f"{i}.png,-1,1\n" for i in range(5, 10))
    options = {"labels": table(data_dir, text), "uncertain": ("covid 19=zeros",), "imply": ("covid_19=pneumonia",)}
    data = opened(data_dir, **options)
    assert data.labels == ("COVID-19", "Pneumonia") and data.targets.sum(0).tolist() == [5, 10]


def test_columns_named_in_another_spelling(data_dir):
    data = opened(
        data_dir,
        labels=table(data_dir, lines("Bild,Erkrankte Region\u00e9", "{i}.png,{ab}")),
        path_col="bild",
        label_col="erkrankte_regione\u0301",
    )
    assert data.labels == ("a", "b")


def test_labels_of_a_run_stay_as_they_are(data_dir):
    """An older run may have separate labels for spellings of one label, or labels such as 'nan' and 'a, b'."""
    text = "image,label\n" + "".join(
        f'{i}.png,"{label}"\n'
        for i, label in enumerate(["Normal", "normal", "nan", "a, b", "a", "b", "b", "a", "a", "B"])
    )
    config = DataConfig(source=data_dir, labels=table(data_dir, text))
    known = ("a", "a, b", "b", "nan", "Normal", "normal")
    data = open_manifest(config, to_train=False, known_labels=known)
    assert data.labels == known and data.task == "single"
    assert rows(data)["3.png"] == "a, b" and rows(data)["9.png"] == "b"
    # A run that joined them still finds them joined, whichever spelling is the most frequent.
    assert open_manifest(config, to_train=False, known_labels=("B", "nan")).labels[:2] == ("a", "B")
    with pytest.raises(DataError, match="'nan', which is not a label"):
        open_manifest(config)


def test_columns_of_a_run_s_labels_stay_labels(data_dir):
    text = "image,Mass,male,is_test\n" + "".join(f"{i}.png,{i % 2},{i // 5},{i // 8}\n" for i in range(10))
    config = DataConfig(source=data_dir, labels=table(data_dir, text))
    known = ("is_test", "male", "Mass")
    assert open_manifest(config, known_labels=known).labels == known
    assert open_manifest(config).labels == ("Mass",)


def test_the_labels_of_a_network_take_any_spelling_of_the_data(data_dir):
    data = label_column(data_dir, ["covid 19", "COVID19", "Normal", "normal.", "0", "0.0"] + ["Normal"] * 4)
    found = match_labels(data, ("COVID-19", "NORMAL", "0"), "single")
    assert found.truth.sum(0).tolist() == [2, 6, 2] and found.unknown == ()


def test_numbers_with_a_decimal_comma_are_numbers(data_dir):
    data = label_column(data_dir, ["1,0", "0,0"] * 5)
    assert data.labels == ("label",) and data.targets.sum() == 5
    assert label_column(data_dir, ["0,0", "1,0", "2,0", "2", "0"] + ["1,0"] * 5).labels == ("0,0", "1,0", "2,0")


def test_lists_and_plain_labels_in_one_column(data_dir):
    for labels in (["['Mass', 'Edema']"] * 4 + ["Mass", "Edema"] * 3, ["('Mass', 'Edema')"] * 8 + ["Mass", "Edema"]):
        data = label_column(data_dir, labels)
        assert (
            data.labels == ("Edema", "Mass") and rows(data)["0.png"] == "Edema|Mass" and rows(data)["8.png"] == "Mass"
        )
        assert noted(data, "list")


# Labels that contradict each other


@pytest.mark.parametrize(
    ("label", "other"), [("normal", "pneumonia"), ("Healthy", "Mass"), ("no mass", "mass"), ("non-covid", "Covid")]
)
def test_a_label_beside_one_that_denies_it_is_noted(data_dir, label, other):
    data = label_column(data_dir, [f"{other}|{label}"] * 3 + [label] * 4 + [other] * 3)
    assert set(data.labels) == {label, other} and data.task == "multi"
    assert noted(
        data, f"'{label}' contradicts {other} on 3 images, which have both labels: both are kept.", "labels.csv row 2"
    )
    assert not noted(label_column(data_dir, [label, other] * 5), "denies")
    assert not noted(label_column(data_dir, ["mass|edema", "edema", label, "normal"] * 2 + ["mass"] * 2), "denies")


def test_no_finding_beside_others_is_noted_where_it_is_kept(tmp_path, data_dir):
    labels = ["No Finding|Mass", "Mass", "No Finding", "Edema"] * 2 + ["Edema"] * 2
    assert noted(
        label_column(data_dir, labels, keep_no_finding=True),
        "'No Finding' contradicts Mass on 2 images",
    )
    assert noted(
        label_column(data_dir, labels), "2 images with 'No Finding' and other labels: the other labels are used"
    )
    folders = classes(tmp_path / "folders", **{"normal+mass": 2, "normal": 3, "mass": 3})
    assert noted(opened(folders), "'normal' contradicts mass on 2 images", "normal+mass/")


# Missing cells


def test_words_for_missing_cells_are_no_labels(data_dir):
    labels = ["a", "b", "nan", "N/A", "None", "null", "NaN", "a", "b", "a"]
    found = message(
        DataError,
        data_dir,
        labels=table(data_dir, "image,label\n" + "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels))),
    )
    assert "labels.csv row 4: found 'nan', which is not a label, and 4 more rows like it ('nan', 'N/A', 'None'" in found
    data = label_column(data_dir, labels, blank=("ignore",))
    assert data.labels == ("a", "b") and noted(data, "Read as blank cells: 'nan' 1 times in 'label', 'N/A' 1 times")


def test_words_for_missing_cells_in_columns_of_flags(data_dir):
    text = (
        lines("image,Mass,Edema", "{i}.png,1,nan", 5) + "".join(f"{i}.png,N/A,1\n" for i in range(5, 9)) + "9.png,0,0\n"
    )
    data = opened(data_dir, labels=table(data_dir, text))
    assert (data.truth == -1).sum(0).tolist() == [5, 4] and noted(
        data, "'N/A' 4 times in 'Mass', 'nan' 5 times in 'Edema'"
    )


@pytest.mark.parametrize(
    "word",
    [
        *(
            "unknown",
            "UNKNOWN ",
            "-",
            "--",
            "\u2014",
            "missing",
            "?",
            "??",
            "n.a.",
            "not available",
            "Not_Available",
            "TBD",
        ),
        *(
            "#REF!",
            "#VALUE!",
            "#DIV/0!",
            "#NAME?",
            "Err:502",
            "(unknown)",
            "to do",
            "unlabeled",
            "not reported",
            ".",
            "TBD",
        ),
    ],
)
def test_words_for_no_label_are_missing_cells(data_dir, word):
    labels = ["a", "b", word, "a", "b", "a", "b", "a", word, "b"]
    file = table(data_dir, "image,label\n" + "".join(f'{i}.png,"{label}"\n' for i, label in enumerate(labels)))
    found = message(DataError, data_dir, labels=file)
    assert f"labels.csv row 4: found '{word.strip()}', which is not a label, and 1 more row like it" in found
    assert "blank='ignore'" in found and f"give label_map= the line '{word.strip()} = {word.strip()}'." in found
    data = opened(data_dir, labels=file, blank=("ignore",))
    assert data.labels == ("a", "b") and (data.truth == -1).all(1).sum() == 2
    assert noted(data, f"'{word.strip()}' 2 times in 'label'")


@pytest.mark.parametrize("label", ["other", "none seen", "known", "indeterminate", "1", "C-", "unremarkable"])
def test_words_that_are_labels(data_dir, label):
    assert set(label_column(data_dir, [label, "b"] * 5).labels) == {label, "b"}


def test_a_label_map_makes_a_label_of_such_a_word(data_dir):
    mapped = data_dir / "map.txt"
    mapped.write_text("Healthy = None\nunknown = unknown\n")
    data = label_column(data_dir, ["None", "mild", "none", "Unknown", "unknown"] * 2, label_map=mapped)
    assert data.labels == ("Healthy", "mild", "unknown") and data.task == "single"
    assert data.targets.sum(0).tolist() == [4, 2, 4]


# Uncertain labels

UNSURE = [
    *("pneumonia?", "pneumonia ??", "?pneumonia", "possible pneumonia", "Possible_Pneumonia", "r/o pneumonia"),
    *("R/O: Pneumonia", "probable pneumonia", "suspected pneumonia", "pneumonia (possible)", "pneumonia, probable"),
    *("poss. pneumonia", "pneumonia cannot be excluded", "may represent pneumonia", "+/- pneumonia", "~pneumonia"),
    *("rule out pneumonia", "cannot exclude pneumonia", "likely pneumonia", "suspicious for pneumonia"),
]


@pytest.mark.parametrize("cell", UNSURE)
def test_uncertain_words_are_uncertain_labels(data_dir, cell):
    labels = [cell, cell, "pneumonia", "Pneumonia", "normal", "pneumonia", "normal", "normal", "pneumonia", "normal"]
    file = table(data_dir, "image,label\n" + "".join(f'{i}.png,"{label}"\n' for i, label in enumerate(labels)))
    options = {"labels": file, "label_delim": "|"}
    found = message(DataError, data_dir, **options)
    assert f"labels.csv row 2: found '{cell}', which is an uncertain label, and 1 more row like it" in found
    assert "uncertain='ones'" in found and f"'{cell} = {cell}'" in found
    data = opened(data_dir, **options, uncertain=("ones",))
    assert data.labels == ("normal", "pneumonia") and data.task == "single" and data.targets.sum(0).tolist() == [4, 6]
    data = opened(data_dir, **options, task="multi")
    assert data.truth[:2].tolist() == [[0, -1]] * 2 and (data.truth == -1).sum() == 2
    assert noted(data, f"Read as uncertain (-1): {cell!r} (2)", "--uncertain")


def test_uncertain_labels_beside_others(data_dir):
    data = label_column(data_dir, ["mass|edema?", "edema", "mass", "edema?|edema", "possible mass"] * 2)
    assert data.labels == ("edema", "mass") and data.task == "multi"
    assert data.truth[:5].tolist() == [[-1, 1], [1, 0], [0, 1], [1, 0], [0, -1]]


def test_an_uncertain_label_is_one_of_its_own_where_no_row_is_certain_or_a_label_map_says_so(data_dir):
    data = label_column(data_dir, ["possible TB", "normal"] * 5)
    assert data.labels == ("normal", "possible TB") and data.task == "single"
    assert noted(data, "Labels that say that they are uncertain: 'possible TB'", "--label-map")
    (data_dir / "map.txt").write_text("possible TB = possible TB\n")
    data = label_column(data_dir, ["possible TB", "TB"] * 5, label_map=data_dir / "map.txt")
    assert data.labels == ("possible TB", "TB")


def test_uncertain_words_in_columns_of_flags(data_dir):
    text = lines("image,Mass,Edema", "{i}.png,1,0", 5) + "5.png,unsure,1\n6.png,maybe,-\n7.png,0,unknown\n8.png,0,0\n"
    data = opened(data_dir, labels=table(data_dir, text))
    assert data.truth[5:].tolist() == [[1, -1], [-1, -1], [-1, 0], [0, 0]]
    assert noted(data, "Of the uncertain cells (-1), 2 are ignored") and noted(data, "'-' 1 times in 'Edema'")
    assert not noted(data, "'unsure'")


# 1 and -1


def test_1_and_minus_1_are_explained(data_dir):
    text = "image,label\n" + "".join(f"{i}.png,{(-1) ** i}\n" for i in range(10))
    file = table(data_dir, text)
    found = message(DataError, data_dir, labels=file)
    assert "only one class, 'label'" in found and "-1 mean uncertain" in found and "uncertain='zeros'" in found
    assert opened(data_dir, labels=file, uncertain=("zeros",)).targets.sum() == 5


def test_1_and_minus_1_in_several_columns(data_dir):
    text = "image,A,B\n" + "".join(f"{i}.png,{(-1) ** i},{(-1) ** (i // 2)}\n" for i in range(10))
    found = message(DataError, data_dir, labels=table(data_dir, text))
    assert "no image on which one of these labels is 0: A, B" in found and "uncertain='zeros'" in found
    data = opened(data_dir, labels=table(data_dir, text.replace("9.png,-1,1", "9.png,-1,0")))
    assert noted(
        data, "'A': these labels have no cell of 0. --uncertain zeros makes uncertain cells (-1) the negatives."
    )
    assert not noted(opened(data_dir, uncertain=("zeros",), labels=data_dir / "labels.csv"), "have no cell of 0")


@pytest.mark.parametrize("blank", ["", "nan"])
def test_1_and_blank_cells(data_dir, blank):
    text = "image,A,B\n" + "".join(f"{i}.png,{1 if i % 2 else blank},{blank if i % 2 else 1}\n" for i in range(10))
    found = message(DataError, data_dir, labels=table(data_dir, text))
    assert "no image on which one of these labels is 0: A, B" in found and "blank='zeros' makes them" in found
    assert opened(data_dir, blank=("zeros",)).task == "single"


def test_a_class_folder_called_like_a_missing_label(tmp_path):
    assert noted(opened(classes(tmp_path, nan=3, b=3)), "A class folder is named 'nan'")


@pytest.mark.parametrize("hidden", ["ma\u200bss", "\u200bmass", "ma\u00adss"])
def test_characters_that_cannot_be_seen_are_dropped_with_a_note(data_dir, hidden):
    for others in (["mass"] * 3, []):
        data = label_column(data_dir, [hidden, hidden, *others, *["normal"] * 4])
        assert data.labels == ("mass", "normal") and noted(data, f"'mass' (also {hidden!a})")
    flags = opened(
        data_dir, labels=table(data_dir, f"image,{hidden},edema\n" + "".join(f"{i}.png,{i % 2},1\n" for i in range(8)))
    )
    assert flags.labels == ("edema", "mass") and noted(flags, f"'mass' (also {hidden!a})")


@pytest.mark.parametrize(
    "spelling",
    [
        "b'{}'",
        'b"{}"',
        "np.str_('{}')",
        "numpy.str_('{}')",
        "['{}']",
        "array(['{}'], dtype=object)",
        "frozenset({{'{}'}})",
        "set(['{}'])",
    ],
)
def test_values_that_python_printed_with_their_type_are_read_as_values(data_dir, spelling):
    odd = [spelling.format("no mass").replace('"', '""'), spelling.format("mass").replace('"', '""')]
    data = label_column(data_dir, ["no mass", "mass", *odd * 4])
    assert data.labels == ("mass", "no mass") and data.targets.sum(0).tolist() == [5, 5]


@pytest.mark.parametrize("spelling", ["tensor({})", "np.int64({})", "tensor({}, device='cuda:0')", "[{}.]"])
def test_numbers_that_python_printed_with_their_type_are_read_as_numbers(data_dir, spelling):
    data = label_column(data_dir, [*"0101", *map(spelling.format, [0, 1, 1, 0, 1, 0])])
    assert data.labels == ("label",) and data.targets[:, 0].tolist() == [0, 1, 0, 1, 0, 1, 1, 0, 1, 0]


@pytest.mark.parametrize("label", ["no%20mass", "no\\u0020mass", "NO%20MASS"])
def test_escapes_in_labels_are_read(data_dir, label):
    data = label_column(data_dir, ["no mass"] * 3 + [label] * 2 + ["mass, 50% of it"] * 5, label_delim=";")
    assert data.labels == ("mass, 50% of it", "no mass")


def test_flag_columns_with_exactly_one_1_per_image_are_noted(data_dir):
    text = "image,Edema_0,Edema_1,Mass\n" + "".join(f"{i}.png,{1 - i % 2},{i % 2},{i % 3 // 2}\n" for i in range(10))
    data = opened(data_dir, labels=table(data_dir, text))
    assert noted(data, "Each image has exactly one of two labels: 'Edema_0' and 'Edema_1'")
    assert not noted(opened(data_dir, labels=table(data_dir, text.replace("0.png,1,0", "0.png,1,1"))), "exactly one of")
