from __future__ import annotations

import pytest

from tests.data.builders import classes, make, noted, opened, table


@pytest.mark.parametrize(
    "name", ["{i}{s}.png", "{i}_jpg.rf.{h}.jpg", "x{i}-flip{s}.png"], ids=["suffixes", "roboflow", "all suffixed"]
)
def test_augmented_copies_by_name_stay_with_their_image(tmp_path, name):
    for label in "ab":
        for i in range(8):
            for j, end in enumerate(("", "_aug1", "_rot90")):
                make(tmp_path, f"{label}/" + name.format(i=i, s=end, h=f"{i:04x}{j:04x}" * 4))
    data = opened(tmp_path)
    number = data.table["image"].str.extract(r"([ab]/x?\d+)")[0]
    assert data.table.groupby(number)["split"].nunique().max() == 1 and set(data.table["split"]) == {"train", "valid"}
    assert noted(data, "kept in the same split as that image")


def test_augmented_copies_in_two_given_splits_are_noted(tmp_path):
    files = [f"{split}/{label}/{i}{end}.png" for split, end in (("train", "_aug1"), ("valid", "")) for label in "ab"
             for i in range(4)]  # fmt: skip
    assert noted(opened(make(tmp_path, *files)), "8 of 8 studies are in more than one given split")


def test_lateral_views_beside_others_are_noted(tmp_path):
    views = ("frontal", "lateral")
    make(tmp_path / "names", *(f"{one}/{one}{i}_{view}.png" for one in "ab" for i in range(4) for view in views))
    assert noted(opened(tmp_path / "names"), "8 lateral views used like the other images")
    make(tmp_path / "table", *(f"i{i}.png" for i in range(12)))
    rows = "".join(f"i{i}.png,{'ab'[i % 2]},{'LL' if i < 3 else 'PA'}\n" for i in range(12))
    table(tmp_path / "table", "image,label,view\n" + rows)
    assert noted(opened(tmp_path / "table"), "3 lateral views used like")
    assert not noted(opened(classes(tmp_path / "plain", collateral=8, normal=8)), "lateral")


def test_copies_of_roboflow_have_any_hash(tmp_path):
    names = [f"{c}/{c}{i}_jpg.rf.{h}{i}.jpg" for c in "ab" for i in range(5) for h in ("abc12", "Zq9")]
    data = opened(make(tmp_path, *names))
    assert noted(data, "20 images with the name of an augmented copy") and data.table["study"].nunique() == 10


def test_augmented_copies_beside_images_with_patients_in_their_names_stay_in_one_split(tmp_path):
    nih = [f"a/000{20000 + i}_000{copy}.png" for i in range(12) for copy in ("", "_flip", "_aug_0_77", "(1)")]
    others = [f"b/web-{'abcdefghijkl'[i]}{copy}.png" for i in range(12) for copy in ("", "_rot10")]
    data = opened(make(tmp_path, *nih, *others))
    table = data.table.assign(original=data.table["image"].str.extract(r"(000\d+_000|web-.)")[0])
    assert (table.groupby("original")["split"].nunique() == 1).all()
    assert table["patient"].notna().sum() == len(nih)
    assert noted(data, "12 on 48 of 72") and noted(data, "kept in the same split", "web-a_rot10.png")


def test_copies_of_augmentor_have_any_uuid(tmp_path):
    ends = ("5ad2f4e2-0f3c-4d6b-9a51-0123456789ab", "0b1c9d3e-1111-4222-8333-abcdefabcdef")
    names = [f"{c}/{c}_original_IM-{i:04d}.png_{end}.png" for c in "ab" for i in range(5) for end in ends]
    data = opened(make(tmp_path, *names))
    assert noted(data, "20 images with the name of an augmented copy") and data.table["study"].nunique() == 10


def test_too_many_copies_of_one_name_are_not_said_to_stay_together(tmp_path):
    data = opened(make(tmp_path, *(f"{c}/image copy {i}{c}.png" for c in "ab" for i in range(24))))
    assert not noted(data, "kept in the same split as that image")
    data = opened(make(tmp_path / "more", *(f"{c}/image copy {i}.png" for c in "ab" for i in range(24))))
    assert noted(data, "48 images without a patient in 2 studies", "not kept in one split")
    assert not noted(data, "kept in the same split as that image")


def test_copies_of_augmentor_stay_with_the_original_in_the_folder_above(tmp_path):
    end = "5ad2f4e2-0f3c-4d6b-9a51-0123456789ab"
    pairs = [
        (f"{c}/IM-{i:04d}.png", f"{c}/output/{c}_original_IM-{i:04d}.png_{end}.png") for c in "ab" for i in range(9)
    ]
    study = opened(make(tmp_path, *(name for pair in pairs for name in pair))).table.set_index("image")["study"]
    assert study.notna().all() and study.nunique() == 18
    assert all(study[original] == study[copy] for original, copy in pairs)
