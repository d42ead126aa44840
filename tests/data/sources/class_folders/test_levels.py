from __future__ import annotations

import itertools

import pytest

from tests.data.builders import column, make, message, noted, opened, rows, splits
from xrayfast.errors import ConfigError, DataError
from xrayfast.workflows.steps.predictions.own import with_columns


def tree(root, *folders, count=4):
    """Write images with different contents in folders such as "{A,B}/{normal,tb}"."""
    for folder in folders:
        choices = [part.strip("{}").split(",") for part in folder.split("/")]
        for parts in itertools.product(*choices):
            make(root, *("/".join([*parts, f"{'-'.join(parts)}-{i}.png"]) for i in range(count)))
    return root


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (["{hospA,hospB}/{normal,pneumonia}"], ("normal", "pneumonia")),
        (["hospA/{normal,tb}", "hospB/{normal,covid-19}", "hospC/normal"], ("covid-19", "normal", "tb")),
        (["hospA/normal", "hospB/tb"], ("normal", "tb")),
        (["{original,augmented}/{normal,tb}"], ("normal", "tb")),
        (["{2019,2020}/{normal,tb}"], ("normal", "tb")),
        (["{part1,part2}/{normal,tb}"], ("normal", "tb")),
        (["{batch1,batch2}/{normal,tb}"], ("normal", "tb")),
        (["part1/sano", "part2/enfermo"], ("enfermo", "sano")),
        (["{AP,PA}/{sano,enfermo}"], ("enfermo", "sano")),
        (["{one,other}/{sano,enfermo}"], ("enfermo", "sano")),
        (["{one,other}/{0,1}"], ("0", "1")),
        (["{one,other}/{2019,2020}/{normal,tb}"], ("normal", "tb")),
        (["chest_xray/{NORMAL,PNEUMONIA}"], ("NORMAL", "PNEUMONIA")),
        (["{patient001,patient002,patient003}/{normal,tb}"], ("normal", "tb")),
        (["{train,test}/{hospA,hospB}/{normal,tb}"], ("normal", "tb")),
        (["train/hospA/{normal,tb}", "test/hospB/{normal,tb}"], ("normal", "tb")),
        (["{hospA,hospB}/{train,test}/{normal,tb}"], ("normal", "tb")),
        (["{hospA,hospB}/{normal,tb}/{train,test}"], ("normal", "tb")),
        (["{hospA,hospB}/{normal,tb}/{images,masks}"], ("normal", "tb")),
    ],
)
def test_folders_that_group_the_classes_are_no_classes(tmp_path, folders, labels):
    data = opened(tree(tmp_path, *folders))
    assert data.labels == labels
    assert all(set(row.split("|")) <= set(name.split("/")) for name, row in rows(data).items())
    assert noted(data, f"Classes are the folders {labels[0]}") or noted(data, f"Classes are the folders {labels[1]}")
    assert noted(data, "--class-level 1", "--by folder", "--patient-col 'name:") == (folders[0][:5] != "chest")


def test_notes_on_files_of_several_folders_are_one(tmp_path):
    for folder in itertools.product(("hospA", "hospB"), ("normal", "tb")):
        for i in range(3):
            make(tmp_path, f"{'/'.join(folder)}/{i}.png", content=f"{folder}, {i}")
    assert [note for note in opened(tmp_path).notes if "several classes" in note] == [
        "3 file names in several classes with different content (0.png, 1.png, 2.png): used as different images."
    ]


@pytest.mark.parametrize(
    ("folders", "labels", "inner"),
    [
        (["normal", "pneumonia/{bacterial,viral}"], ("normal", "pneumonia"), "bacterial"),
        (["{normal,tb}/{patient001,patient002}/study1"], ("normal", "tb"), "patient001"),
        (["{normal,tb}/{AP,PA}"], ("normal", "tb"), "AP, PA"),
        (["{normal,tb}/{original,augmented}"], ("normal", "tb"), "augmented"),
        (["{sano,enfermo}/{0041,0042}"], ("enfermo", "sano"), "0041"),
        (["{sano,enfermo}/{male,female}"], ("enfermo", "sano"), "female"),
        (["sano/{ana,eva}", "enfermo/{luis,juan}"], ("enfermo", "sano"), "ana"),
        (["{mass,nodule}/{mild,severe}"], ("mass", "nodule"), "mild"),
        (["{0,1}/{1,2,3}"], ("0", "1"), "1, 2, 3"),
        (["{train,test}/{normal,tb}/{p1,p2}"], ("normal", "tb"), "p1"),
    ],
)
def test_folders_inside_the_classes_are_noted(tmp_path, folders, labels, inner):
    data = opened(tree(tmp_path, *folders))
    assert data.labels == labels
    assert noted(
        data, "Folders inside the class folders are not used", inner, "--class-level 2", "--patient-col 'name:"
    )


def test_folders_of_images_inside_the_classes_need_no_note(tmp_path):
    data = opened(tree(tmp_path, "{normal,tb}/images", "{normal,tb}/images/png"))
    assert data.labels == ("normal", "tb") and not noted(data, "class-level") and len(data) == 16


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["{normal,tb}", "hospA/{normal,tb}"], "class folders inside class folders, such as normal in hospA"),
        (["{tb,covid}/{normal,tb,covid}"], "class folders inside class folders"),
        (["folders/{normal,tb}", "rest"], "images in rest without one"),
    ],
)
def test_trees_that_can_be_read_in_two_ways_are_errors(tmp_path, folders, words):
    found = message(DataError, tree(tmp_path, *folders))
    assert words in found and "class_level=1" in found
    assert len(opened(tmp_path, class_level=1)) > 0


def test_the_level_can_be_given(tmp_path):
    tree(tmp_path, "{train,test}/{hospA,hospB}/{2019,2020}/{normal,tb}")
    for level, labels in enumerate((("hospA", "hospB"), ("2019", "2020"), ("normal", "tb")), start=1):
        data = opened(tmp_path, class_level=level)
        assert data.labels == labels and len(data) == 64 and not noted(data, "class-level")
    assert "class_level is 4; expected at most 3" in message(ConfigError, tmp_path, class_level=4)


def test_the_groups_are_kept_for_subgroups(tmp_path):
    data = opened(tree(tmp_path, "{hospA,hospB}/{2019,2020}/{normal,tb}"))
    images = data.table["image"].tolist()
    found = with_columns(("folder",), {}, data.config, images, "the predictions")["folder"]
    assert found.tolist() == ["/".join(name.split("/")[:2]) for name in images]
    flat = opened(tree(tmp_path / "flat", "{normal,tb}"))
    with pytest.raises(ConfigError, match="by: the predictions do not contain folder"):
        with_columns(("folder",), {}, flat.config, flat.table["image"].tolist(), "the predictions")


def test_folders_above_the_classes_can_be_the_patients(tmp_path):
    tree(tmp_path, "train/{ana,eva,luis}/{normal,tb}", "test/{mia,tom}/{normal,tb}")
    data = opened(tmp_path)
    pattern = next(note for note in data.notes if "--patient-col" in note).split("--patient-col '")[1].split("'")[0]
    data = opened(tmp_path, patient_col=pattern)
    groups = dict(zip((name.split("/")[1] for name in rows(data)), column(data, "patient"), strict=True))
    assert len(set(groups.values())) == 5 and data.table["patient"].nunique() == 5


def test_splits_inside_the_groups_are_kept(tmp_path):
    data = opened(tree(tmp_path, "{hospA,hospB}/{train,test}/{normal,tb}"))
    assert all(split == ("test" if "/test/" in name else split) for name, split in splits(data).items())
    assert set(splits(data).values()) == {"train", "valid", "test"}


def test_images_next_to_the_group_folders_are_left_out_with_a_note(tmp_path):
    make(tree(tmp_path, "{hospA,hospB}/{normal,tb}"), "hospA/scan.png", "cover.png")
    data = opened(tmp_path)
    assert len(data) == 16 and noted(data, "1 image left out (next to the class folders of hospA)")
    assert sum(len(names) for _, names in data.left_out) == 2


def test_images_next_to_class_folders_of_one_name_are_counted_together(tmp_path):
    root = make(tree(tmp_path, "{train,test}/{hospA,hospB}/{normal,tb}"), "train/hospA/one.png", "test/hospA/two.png")
    data = opened(make(root, "train/hospA/normal/0_mask.png"))
    counts = [(why.partition(" ")[0], len(names)) for why, names in data.left_out]
    assert sorted(counts) == [("mask,", 1), ("next", 2)]


def test_class_level_has_no_effect_on_a_table(tmp_path):
    make(tmp_path, *(f"images/{i}.png" for i in range(10)))
    text = "image,label\n" + "".join(f"images/{i}.png,{'ab'[i % 2]}\n" for i in range(10))
    (tmp_path / "labels.csv").write_text(text)
    assert "class_level is 1, which has no effect: the labels are in a table" in message(
        ConfigError, tmp_path, class_level=1
    )


def test_augmented_folders_are_noted_and_copies_of_one_name_stay_together(tmp_path):
    make(
        tmp_path,
        *(f"{g}/{c}/{c}{i}.png" for g in ("original", "augmented") for c in ("normal", "tb") for i in range(9)),
    )
    data = opened(tmp_path)
    assert data.labels == ("normal", "tb") and noted(data, "18 images in folders of augmented", "augmented/normal")
    assert noted(data, "18 images with the name of an augmented copy")
    split = splits(data)
    assert all(split[name] == split[name.replace("augmented", "original")] for name in split)
    assert {"train", "valid"} == set(split.values())
    alone = opened(tmp_path / "original")
    assert not noted(alone, "augmented") and alone.groups is None


def test_folders_whose_names_join_a_split_or_a_group_with_a_class(tmp_path):
    found = message(DataError, tree(tmp_path / "split", "{train_normal,train_tb,test_normal,test_tb}"))
    assert "whose names contain both a split and a class" in found and "such as train/normal" in found
    data = opened(tree(tmp_path / "group", "{A_normal,A_tb,B_normal,B_tb}"))
    assert noted(data, "Names of class folders combine A, B with normal, tb", "--label-map", "'normal = A_normal'")
    assert not noted(opened(tree(tmp_path / "plain", "{covid_pneumonia,viral_pneumonia}")), "Names of class folders")


def test_folders_named_like_identifiers_are_noted(tmp_path):
    data = opened(tree(tmp_path / "a", "{0041,0042,0043}"))
    assert data.labels == ("0041", "0042", "0043") and noted(
        data, "Class folders have names like identifiers", "--labels"
    )
    assert not noted(opened(tree(tmp_path / "b", "{0,1}")), "identifiers")


@pytest.mark.parametrize("around", ["", "download/"])
def test_a_data_set_unpacked_into_itself_is_read_once(tmp_path, around):
    for folder in ("", "chest_xray/"):
        for split in ("train", "val", "test"):
            for label in ("NORMAL", "PNEUMONIA"):
                for i in range(4):
                    name = f"{split}/{label}/{label}-{split}-{i}.png"
                    make(tmp_path, f"{around}{folder}{name}", content=name)
    data = opened(tmp_path)
    assert data.labels == ("NORMAL", "PNEUMONIA") and len(data.table) == 24
    assert not any("chest_xray" in name for name in rows(data))
    assert noted(data, "24 images left out (in a folder that holds a copy of the folders beside it)")


@pytest.mark.parametrize("content", ["another one", "as long!"])
def test_a_folder_of_other_images_with_the_same_names_is_no_copy(tmp_path, content):
    names = [f"{label}/{i}.png" for label in ("normal", "tb") for i in range(4)]
    make(tmp_path, *names, content="original")
    make(tmp_path, *(f"augmented/{name}" for name in names), content=content)
    with pytest.raises(DataError, match="class folders inside class folders"):
        opened(tmp_path)
