from __future__ import annotations

import pytest

from tests.data.builders import column, make, message, noted, opened, table, with_patients
from xrayfast.data.sources.identifiers import join_spellings, normalize_identifier
from xrayfast.errors import DataError, plural


@pytest.mark.parametrize("spell", [lambda p: f"{p:05d}", lambda p: f"{p}.0", lambda p: f" {p} "])
def test_spellings_of_an_identifier_are_one_patient(tmp_path, spell):
    make(tmp_path, *(f"i{i}.png" for i in range(24)))
    rows = "".join(f"i{i}.png,{'ab'[i % 2]},{spell(i // 2) if i % 2 else i // 2}\n" for i in range(24))
    table(tmp_path, "image,label,patientId\n" + rows)
    data = opened(tmp_path)
    assert data.table["patient"].nunique() == 12
    assert data.table.groupby("patient")["split"].nunique().max() == 1
    assert noted(data, "12 patient identifiers joined with another") or spell(1) == " 1 "


@pytest.mark.parametrize("number", ["1'234'567", "1\u00a0234\u00a0567", "1,234,567", "+1234567", "1\u2019234\u2019567"])
def test_numbers_in_the_format_of_a_country_are_one_identifier(number):
    assert normalize_identifier(number) == "1234567" and normalize_identifier("1,2") == "1,2"
    assert normalize_identifier("1.234") != normalize_identifier("12 34") != "1234"


def test_spellings_of_one_identifier_are_joined(tmp_path):
    names = ["p-0001", "p0001", "P_0001", "P 1", "q-7-12", "Q7-12", "r1.2.03", "r1.2.3", "x10", "x1", "0"]
    data = with_patients(tmp_path, [name for name in names for _ in range(2)])
    found = column(data, "patient")[::2]
    assert [found.index(name) for name in found] == [0, 0, 0, 0, 4, 4, 6, 7, 8, 9, 10]
    assert noted(data, "4 patient identifiers joined", "'-' and '_'")


@pytest.mark.parametrize(
    "word",
    [
        *("unknown", "anonymous", "N/A", "-", "0", "nan", "none", "ANON", "xxx", "--", "000", "9999", "not available"),
        *("?", "-999", "N.N.", "NN", "Anonymous^Patient", "[REDACTED]", "<removed>", "000000-0000", "anonymisiert"),
    ],
)
def test_words_for_unknown_patients_are_no_patient(tmp_path, word):
    data = with_patients(tmp_path, [f"p{i // 2 * 31 + 5}" if i < 14 else word for i in range(24)])
    assert column(data, "patient")[14:] == [None] * 10 and data.table["patient"].nunique() == 7
    assert noted(data, f"'{word}'")


def test_a_0_more_frequent_than_patients_is_none_beside_more_frequent_words(tmp_path):
    data = with_patients(tmp_path, [f"p{i // 2}" for i in range(16)] + ["anonymous"] * 6 + ["0"] * 4)
    assert column(data, "patient")[16:] == [None] * 10 and noted(data, "'0' (4)", "'anonymous' (6)")


@pytest.mark.parametrize(
    "name", ["P{i}_{visit}", "{i}-{k}", "anna{i} t{k}", "{i}_visit{k}", "{i}_{side}", "P{i}-{letter}"]
)
def test_identifiers_of_images_or_visits_in_place_of_patients_are_noted(tmp_path, name):
    pairs = [(i, k) for i in range(10, 20) for k in (0, 1)]
    ids = [name.format(i=i, k=k, visit=("pre", "post")[k], side=("left", "right")[k], letter="LR"[k]) for i, k in pairs]
    data = with_patients(tmp_path, ids)
    assert noted(data, "may be those of images", "10 instead of 20") and not noted(data, ids[0])


@pytest.mark.parametrize("name", ["P-{n:03d}", "site{k}_{n}", "patient_{n}", "{n}", "2020-{k}-{n}", "A{k}-{n:05d}"])
def test_identifiers_with_sites_and_numbers_are_no_visits(tmp_path, name):
    ids = [name.format(n=n // 2 + 10, k=n % 3) for n in range(60)]
    assert not noted(with_patients(tmp_path, ids), "may be those of images")


def test_a_patient_called_0_among_0_1_2_stays_one(tmp_path):
    data = with_patients(tmp_path, [i // 2 for i in range(24)])
    assert data.table["patient"].nunique() == 12 and column(data, "patient")[0] is not None


def test_identifiers_that_a_spreadsheet_rounded_are_noted(tmp_path):
    data = with_patients(tmp_path, ["1.0E+05", "100000", "1.23E+11"] + [f"{i // 2 + 5000}" for i in range(21)])
    assert noted(data, "2 patient identifiers in scientific notation", "spreadsheet", "Export the table again")


@pytest.mark.parametrize("column", ["site", "Dataset", "hospital_name"])
def test_identifiers_that_occur_in_several_sites_are_noted(tmp_path, column):
    root = make(tmp_path, *(f"{i}.png" for i in range(24)))
    text = f"image,label,patient_id,{column}\n" + "".join(
        f"{i}.png,{'ab'[i % 2]},{{}}{i % 6},{'XY'[i // 6 % 2]}\n" for i in range(24)
    )
    shared = opened(root, labels=table(root, text.format(*[""] * 24)))
    assert noted(shared, f"6 of 6 patients occur with several values of '{column}'", "--patient-col")
    own = opened(root, labels=table(root, text.format(*("XY"[i // 6 % 2] for i in range(24)))))
    assert not noted(own, "several values")


@pytest.mark.parametrize(("column", "values"), [("sex", "MF"), ("Birth Year", ("1950", "1951")), ("DOB", "12")])
def test_patients_with_two_sexes_or_births_are_noted(tmp_path, column, values):
    root = make(tmp_path, *(f"{i}.png" for i in range(24)))
    what = "the sex" if column == "sex" else f"'{column}'"
    for contradict in (True, False):
        text = f"image,label,patient_id,{column}\n" + "".join(
            f"{i}.png,{'ab'[i % 2]},{i % 6 if contradict else i // 4},{values[i // 12]}\n" for i in range(24)
        )
        data = opened(root, labels=table(root, text.replace(",0,", ",unknown,")))
        assert noted(data, f"5 of 5 patients occur with several values of {what}: cells are wrong") == contradict


def test_the_error_about_indivisible_data_names_rounded_identifiers(tmp_path):
    root = make(tmp_path, *(f"{i}.png" for i in range(12)))
    text = "image,label,patient_id\n" + "".join(f"{i}.png,{'ab'[i // 6]},1.2345{{}}E+12\n" for i in range(12))
    for last, found in ((["7", "8"], "2 patient identifiers"), (["7", "7"], "1 patient identifier")):
        text_of = text.format(*(last[i // 6] for i in range(12)))
        assert f"{found} in scientific notation" in message(DataError, root, labels=table(root, text_of))
    few = table(root, text.format(*("78"[i // 6] for i in range(12))).replace(".", "p").replace("ppng", ".png"))
    assert "The images are of 2 patients" in message(DataError, root, labels=few)


def test_invisible_characters_do_not_make_another_patient():
    assert join_spellings(["p1", "p\u200b1", "p2"])[0] == ["p1", "p1", "p2"]


def test_a_name_written_in_three_ways_is_one_patient(tmp_path):
    ways = ["DOE^JANE{0}", '"Doe, Jane{0}"', "jane{0} Doe"]
    data = with_patients(tmp_path, [ways[i % 3].format("abcdefgh"[i // 3]) for i in range(24)])
    assert data.table["patient"].nunique() == 8 and noted(data, "joined with another")


def test_patients_are_recognized_by_spellings_of_their_names(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(12)))
    people = [
        name for i in range(4) for name in (f"Doe{'abcd'[i]}, Jane", f"DOE{'ABCD'[i]}^JANE", f"Jane Doe{'abcd'[i]}")
    ]
    text = "".join(f'{i}.png,{"ab"[i // 3 % 2]},"{name}"\n' for i, name in enumerate(people))
    data = opened(tmp_path, labels=table(tmp_path, f"image,label,PatientName\n{text}"))
    assert data.table["patient"].nunique() == 4


@pytest.mark.parametrize(
    ("identifiers", "people"),
    [
        (["Pat 12", "Pat. 12", "pat-12", "PAT12"], 1),
        (["P001", "P001'", "'P001", '"P1"', "`P1\u00b4", "\u201cP1\u201d"], 1),
        (["P12", "\u041012", "P\u0661\u0662", "\uff3012", "\u042012", "P12\u200b"], 2),
        (["P12", "P12.", "#P12", "P12;"], 1),
        (["12", "12,0", "12.00", "\u0967\u0968"], 1),
        (["12", "12,000", "12,5"], 3),
    ],
)
def test_spellings_of_one_identifier(identifiers, people):
    assert len(set(join_spellings(identifiers)[0])) == people


@pytest.mark.parametrize(
    ("cell", "questioned"),
    [("2020-01-{p:02}", True), ("202001{p:02}", True), ("{p}-Jan", True), ("{p}.1.2020", True), ("200{p:02}", False),
     ("20209{p:03}", False)],
)  # fmt: skip
def test_dates_as_patients_are_questioned(tmp_path, cell, questioned):
    make(tmp_path, *(f"{i:02}.png" for i in range(20)))
    text = "".join(f"{i:02}.png,{'ab'[i % 2]},{cell.format(p=i // 2 + 1)}\n" for i in range(20))
    for name, chosen in (("patient", None), ("DOB", "DOB")):
        file = table(tmp_path, f"image,label,{name}\n{text}")
        data = opened(tmp_path, labels=file, patient_col=chosen)
        assert noted(data, "Patient identifiers look like dates") == (questioned and not chosen)


@pytest.mark.parametrize(("cell", "merged"), [("P{p}", True), ("P0", False)])
def test_images_without_a_patient_among_others_are_counted(tmp_path, cell, merged):
    make(tmp_path, *(f"{i:02}.png" for i in range(12)))
    text = "".join(f"{cell.format(p=i) if i % 3 == 0 else ''},{i:02}.png,{'ab'[i % 2]}\n" for i in range(12))
    data = opened(tmp_path, labels=table(tmp_path, f"patient_id,image,label\n{text}"))
    assert noted(data, "8 of 12 images have no patient identifier: other images of the same patient may be in another")
    assert noted(data, "as merged cells of a spreadsheet do") == merged


def test_identifiers_that_end_in_dates_are_questioned_and_a_birth_date_is_pointed_out(tmp_path):
    make(tmp_path, *(f"{i:02}.png" for i in range(12)))
    text = "".join(f"{i:02}.png,{'ab'[i % 2]},{i // 3}_2020010{i % 3 + 1},19{50 + i // 3}-03-01\n" for i in range(12))
    data = opened(tmp_path, labels=table(tmp_path, f"image,label,patient_id,DOB\n{text}"))
    assert noted(data, "Patient identifiers may be those of images or visits", "(4 instead of 12 patients)")
    table(tmp_path, f"image,label,visit_day,DOB\n{text}")
    assert noted(opened(tmp_path), "repeat like identifiers of patients or studies: 'DOB' (4 values on 12 rows)")


@pytest.mark.parametrize(
    ("identifier", "questioned"),
    [
        (lambda i: f"P{i // 2}{'ab'[i % 2]}", True),
        (lambda i: f"{i // 3}{'ABC'[i % 3]}", True),
        (lambda i: f"{i // 2}-{'ab'[i % 2]}", True),
        (lambda i: f"{i // 2}{['', 'b'][i % 2]}", True),
        (lambda i: f"P{i // 2}-{['I', 'II'][i % 2]}", True),
        (lambda i: f"P{i // 2}post" if i % 2 else f"P{i // 2}pre", True),
        (lambda i: f"P{i // 2}(R)" if i % 2 else f"P{i // 2}(L)", True),
        (lambda i: f"P{i // 2} ({40 + i}y)", True),
        (lambda i: f"{i // 2}/{i % 2 + 1}", False),
        (lambda i: f"P{i // 2}/{i % 2 + 1}", False),
        (lambda i: f"P{i}a", False),
        (lambda i: f"Wang {'ABCDEFGHIJKL'[i]}", False),
        (lambda i: f"{i * 2654435761 % 2**32:08x}", False),
    ],
)
def test_identifiers_that_end_in_letters_of_a_series_are_questioned(tmp_path, identifier, questioned):
    make(tmp_path, *(f"{i:02}.png" for i in range(12)))
    text = "".join(f"{i:02}.png,{'ab'[i % 2]},{identifier(i)}\n" for i in range(12))
    data = opened(tmp_path, labels=table(tmp_path, f"image,label,patient\n{text}"))
    assert noted(data, "Patient identifiers may be those of images or visits") == questioned


@pytest.mark.parametrize(
    ("identifier", "several"),
    [
        (lambda i: f"P{i}/P{i + 1}" if i % 4 == 0 else f"P{i // 2}", 3),
        (lambda i: f"P-{i // 2} and P-{i // 2 + 1}", 12),
        (lambda i: f"['P{i // 2}', 'P{i // 2 + 1}']", 12),
        (lambda i: f"P{i // 2}-P{i // 2 + 1}", 12),
        (lambda i: "3/4" if i == 6 else f"{i // 2:03}", 1),
        (lambda i: "a1/b1" if i == 6 else f"{'ab'[i % 2]}{i // 4}", 1),
        (lambda i: f"P{i // 2}, {i // 2 + 1}" if i % 4 == 0 else f"P{i // 2}", 3),
        (lambda i: "P1, 2" if i == 6 else f"Q{i // 2}", 1),
        (lambda i: "1,234" if i == 6 else f"{i // 2}", 0),
        (lambda i: f"{i // 2},0" if i % 2 else f"{i // 2}", 0),
        (lambda i: "1 and 2" if i == 6 else f"{i // 2}", 1),
        (lambda i: f"{i // 2 + 1}/2019", 0),
        (lambda i: f"S{i % 2}/P{i // 2}", 0),
        (lambda i: f"Doe, Jane{i // 2}", 0),
        (lambda i: f"1/{i // 2 + 1}/1950", 0),
        (lambda i: "2020-1-2" if i == 6 else f"{i // 2}", 0),
    ],
)
def test_several_identifiers_in_a_cell_are_noted(tmp_path, identifier, several):
    make(tmp_path, *(f"{i:02}.png" for i in range(12)))
    text = "".join(f"{i:02}.png;{'ab'[i % 2]};{identifier(i)}\n" for i in range(12))
    data = opened(tmp_path, labels=table(tmp_path, f"image;label;patient\n{text}"))
    told = "with a patient identifier that names several"
    assert noted(data, f"{several} image", told) if several else not noted(data, told)


def test_numbers_with_and_without_a_word_for_a_patient_are_noted(tmp_path):
    words = "with and without a word before it"
    for i, (known, others) in enumerate(((("P0012", "P0013"), ("12.0", "0013")), (("P0012",), ("Patient 12",)))):
        patients = [f"P{number:04d}" for number in range(20, 36)] + [*known, *others]
        assert noted(
            with_patients(tmp_path / f"same{i}", patients), f"{plural(len(others), 'number')} of patients {words}"
        )
    for i, others in enumerate((("A12", "B12"), ("P0012", "p-12"), ("12", "P13"))):
        patients = [f"P{number:04d}" for number in range(20, 36)] + [*others]
        assert not noted(with_patients(tmp_path / f"other{i}", patients), words)


def test_an_image_outside_the_folders_of_its_patient_is_noted(tmp_path):
    make(tmp_path, *(f"P{i:03d}/x{i}.png" for i in range(16)))
    rows = "".join(f"x{i}.png,{'ab'[i % 2]},{'p-3' if i == 7 else f'P{i:03d}'}\n" for i in range(16))
    data = opened(tmp_path, labels=table(tmp_path, f"image,label,patient_id\n{rows}"))
    assert noted(data, "1 image in no folder named for the patient in the table, as the others are: P007.")
    rows = "".join(f"x{i}.png,{'ab'[i % 2]},P{i:02d}\n" for i in range(16))
    data = opened(tmp_path, labels=table(tmp_path, f"image,label,patient_id\n{rows}"))
    assert not noted(data, "in no folder named for the patient")
    (tmp_path / "classes").mkdir()  # folders of classes that are called like patients
    make(tmp_path / "classes", *(f"{i % 2}/x{i}.png" for i in range(16)))
    rows = "".join(f"{i % 2}/x{i}.png,{'ab'[i % 2]},{i // 2}\n" for i in range(16))
    data = opened(tmp_path / "classes", labels=table(tmp_path / "classes", f"image,label,patient_id\n{rows}"))
    assert not noted(data, "in no folder named for the patient")


def test_a_column_of_ages_named_as_that_of_patients_is_noted(tmp_path):
    make(tmp_path, *(f"i{i}.png" for i in range(20)))
    rows = "".join(f"i{i}.png,{'ab'[i % 2]},{40 + i // 2},q{i // 2}\n" for i in range(20))
    file, words = table(tmp_path, f"image,label,age,pid\n{rows}"), "is the column of patients, but looks like one of"
    assert noted(opened(tmp_path, labels=file, patient_col="age"), "'age' " + words)
    assert not noted(opened(tmp_path, labels=file, patient_col="pid"), words)
