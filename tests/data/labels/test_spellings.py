from __future__ import annotations

import re

import pytest

from xrayfast.data.labels.spellings import find_alike, note_odd_names


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["Nodule", "Nodules", "Normal"], "'Nodule' and 'Nodules'"),
        (["Pneumonia", "pneumomia"], "'Pneumonia' and 'pneumomia'"),
        (["Cardiomegaly", "Cardiomegayl"], "'Cardiomegaly' and 'Cardiomegayl'"),
        (["Stage 1", "Stage 2"], ""),
        (["edema", "oedema"], "'edema' and 'oedema'"),
        (["Normal", "N0rmal"], "'Normal' and 'N0rmal'"),
        (["pos", "neg", "indeterminate"], "Labels that say that they are uncertain: 'indeterminate'"),
        (["Mass", "Mast", "hyperinflation", "hypoinflation"], ""),
        (
            ["normal-2-Jan", "2-Jan", "12/31/2019", "2019-12-31 00:00:00", "Mar-20", "1-2"],
            "Labels that look like dates",
        ),
        (["1-2", "covid-19", "May", "3/4"], ""),
        (["normal", "mass (1)"], "Labels that look like copies of others: 'mass (1)'"),
        (["1,000", "2"], "Labels that may have thousands or decimal separators (compared as written): '1,000'"),
        (["grade (1a)", "photocopy", "1,5"], ""),
        (["Neumon\u00c3\u00ada", "normal"], "Labels that look like UTF-8 that was read in another encoding"),
        (["Neumon\u00eda", "p\u00e9n\u00e9tration"], ""),
        (["Lungenentz\u00fcndung", "Pneumonia", "\u6c14\u80f8"], "'Lungenentz\u00fcndung' and 'Pneumonia'"),
        (["derrame pleural", "effusion", "masa"], "'derrame pleural' and 'effusion'"),
        (["1", "2", "1)"], "'1' and '1)'"),
        (["1", "2", "class 2"], "'2' and 'class 2'"),
        (["0_normal", "1_mass", "2_Normal"], "'0_normal' and '2_Normal'"),
        (["1 lesion", "2 lesions", "3 lesions", "set 1", "set 2"], ""),
        (["mass_part1", "mass_part2", "edema"], "'mass_part1' and 'mass_part2'"),
        (["Normal1", "Normal2", "stage1", "stage2"], "'Normal1' and 'Normal2'"),
        (["Edema_x", "Edema_y", "mass"], "that pandas joined: 'Edema_x', 'Edema_y'"),
        (["Edema_x", "mass"], ""),
        (["1. 0.", "0. 1."], "rows of 1 and 0: '1. 0.', '0. 1.'"),
    ],
)
def test_labels_that_may_be_errors_are_noted(names, note):
    found = note_odd_names(names)
    assert [note in text for text in found] == [True] * bool(note)
    assert all("normal-2-Jan" not in text for text in found)


@pytest.mark.parametrize(
    ("names", "longer"),
    [
        (["normal", "mass", "normal_backup"], "'normal_backup' (normal)"),
        (["effusion", "mass", "EffusionMass"], "'EffusionMass' (effusion)"),
        (["mass", "Mass!", "edema"], "'Mass!' (mass)"),
        (["mass", "no mass", "edema"], "'no mass' (mass)"),
        (["normal", "normal2", "mass"], "'normal2' (normal)"),
        (["stage1a", "stage1", "T1", "T1a"], ""),
        (["1000", "1 000", "2"], ""),
        (["covid", "non-covid"], ""),
        (["-1", "1", "0", "1.5", "15"], ""),
        (["Mass", "Massive hernia", "ab", "abab"], ""),
        (["mass", "edema", "mass/edema"], ""),
    ],
)
def test_labels_that_hold_the_name_of_another_are_noted(names, longer):
    found = [note for note in note_odd_names(names) if "contain the name of another label" in note]
    assert (longer in found[0]) if longer else not found


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["0", "1", "99"], "are numbers that may stand for missing labels: '99'"),
        (["0", "1", "-9"], "are numbers that may stand for missing labels: '-9'"),
        (["0", "1", "9"], "are numbers that may stand for missing labels: '9'"),
        (["1", "2", "8", "9"], "are numbers that may stand for missing labels: '8', '9'"),
        (["0", "5", "9"], ""),
        (["0 1", "1 0"], "look like rows of 1 and 0: '0 1', '1 0'"),
        (["01", "10", "00"], "look like rows of 1 and 0"),
        (["10", "11", "99"], ""),
        (["10", "100", "1"], ""),
        (["0", "1", "normal", "mass"], "labels are numbers ('0', '1'), and others are names, such as normal, mass."),
    ],
)
def test_labels_that_are_codes_are_noted(names, what):
    found = " ".join(note_odd_names(names))
    assert what in found and (
        what or not {"Labels that", "Some labels"} & {" ".join(note.split()[:2]) for note in note_odd_names(names)}
    )


@pytest.mark.parametrize(
    "pair",
    [
        *(("pos", "positive"), ("neg", "negative"), ("Y", "yes"), ("no", "false"), ("1", "True"), ("ja", "oui")),
        *(("tb", "Tuberculosis"), ("PTX", "pneumothorax"), ("abn", "abnormal"), ("f", "female"), ("0", "0_normal")),
        *(("LO", "Lung Opacity"), ("opacity", "opacities"), ("mass", "masses"), ("infiltrate", "infiltration")),
        *(("healthy", "normal"), ("sano", "WNL"), ("1: mass", "1"), ("covid", "SARS-CoV-2"), ("NML", "normal")),
        *(("T.B.", "TB"), ("0", "zero"), ("2", "II"), ("grade 1", "Grade_I"), ("stage 2a", "Stage IIa")),
        *(("grade two", "grade 2"), ("4", "\u2163"), ("mild III", "mild 3")),
    ],
)
def test_labels_that_may_be_one_under_two_names_are_noted(pair):
    assert find_alike([*pair, "third"]) == [pair]
    (note,) = note_odd_names([*pair, "third"])
    short, long = sorted(pair, key=len)
    assert note.startswith(
        f"Labels that may be two names for one label are kept separate: {pair[0]!r} and {pair[1]!r}."
    )
    assert f"add a line to --label-map, such as '{long} = {short}'." in note


@pytest.mark.parametrize(
    "names",
    [
        ["positive", "negative", "typical", "atypical"],
        ["I", "II", "III", "IV"],
        ["1", "2", "IIa", "grade 1", "type v", "vi5"],
        ["grade 1", "grade 2", "0", "1"],
        ["Lung Opacity", "Lung Lesion", "Mass", "Massive hernia", "no mass", "No Finding"],
        ["Atelectasis", "Pneumonia", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Edema", "Emphysema"],
        ["TB+", "TB-"],
        ["Grade A", "Grade B"],
    ],
)
def test_labels_that_are_different_are_not(names):
    assert not find_alike(names) and not [note for note in note_odd_names(names) if "apart: 'TB" in note]


def test_signs_that_change_a_number_make_another_label():
    assert find_alike(["1", "-1", "1+", "<1", "1.5", "~1"]) == []


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["mass (0.87)", "mass (0.6)", "normal"], "contain scores: 'mass (0.87)', 'mass (0.6)'"),
        (["mass 87%", "normal:0,5", "x"], "contain scores: 'mass 87%', 'normal:0,5'"),
        (["stage 1.2", "grade 3", "covid 19"], ""),
        (["\u65e0\u80ba\u708e", "\u80ba\u708e", "mass"], "contain the name of another label"),
        (
            [
                "\u043d\u0435\u0442 \u043f\u043d\u0435\u0432\u043c\u043e\u043d\u0438\u0438",
                "\u043f\u043d\u0435\u0432\u043c\u043e\u043d\u0438\u044f",
                "mass",
            ],
            "is absent: '\u043d\u0435\u0442",
        ),
        (["sin derrame", "masa", "opacidad"], "is absent: 'sin derrame'"),
        (["no mass", "nodule"], ""),
        (["\u7121\u6c17\u80ba", "mass", "nodule"], ""),
        (["no finding", "nodule", "normal"], ""),
        (["mass", "normal", "poor quality"], "images are not to be used: 'poor quality'"),
        (["mass", "normal", "can't tell"], 'images are not to be used: "can\'t tell"'),
        (["usable", "unusable"], ""),
        (["normal", "\u2556\u256c\u2564"], "contain signs for drawing boxes"),
        (["b'mass'", "b'normal'"], "as Python prints them: \"b'mass'\""),
    ],
)
def test_scores_and_denials_in_labels_are_noted(names, words):
    found = [note for note in note_odd_names(names) if re.search("contain|absent|used|Python", note)]
    assert any(words in note for note in found) if words else not found
