from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.builders import classes, lines, make, message, noted, opened, rows, splits, table
from xrayfast.data.images import names
from xrayfast.data.images.names import find_derived, is_derived
from xrayfast.errors import DataError


@pytest.mark.parametrize(
    ("path", "derived"),
    [
        ("COVID/masks/COVID-1.png", True),
        ("COVID/images/COVID-1.png", False),
        ("ManualMask/leftMask/MCUCXR_0001_0.png", True),
        ("lungmasks/1.png", True),
        ("lung_segmentations/1.png", True),
        ("gradCAM/1.png", True),
        ("heat-maps/1.png", True),
        ("thumbs/1.jpg", True),
        ("overlays/1.jpg", True),
        ("images/CHNCXR_0001_0_mask.png", True),
        ("images/CHNCXR_0001_0_MASK.PNG", True),
        ("images/mask_0001.png", True),
        ("images/0001-overlay.png", True),
        ("images/0001.thumbnail.png", True),
        ("labels_png/1.png", True),
        ("preview/1.png", True),
        ("images/1_msk.png", True),
        ("images/figure1.png", False),
        ("masked-pneumonia/1.png", False),
        ("images/unmasked_1.png", False),
        ("segment3/1.png", False),
        ("images/seg_lobar_pneumonia_3.png", True),
        ("damask/x_1.png", True),
    ],
)
def test_masks_and_other_derived_images_are_recognized_by_folder_and_suffix(path, derived):
    assert is_derived(path) is derived


def test_if_all_names_look_like_masks_no_image_is_left_out():
    assert find_derived(["masks/1.png", "masks/2.png"]) == set()
    assert find_derived(["masks/1.png", "images/2.png"]) == {"masks/1.png"}


PIECES = ["mask", "ma", "sk", "Ma", "SK", "lo", "re", "small", "x", "1", "_", "-", "/", ".", "é", "seg", "icon"]


@given(st.lists(st.lists(st.sampled_from(PIECES), min_size=1).map("".join), max_size=5))
def test_among_many_names_none_that_is_derived_is_missed(paths):
    paths = ["images/100.png", *paths]
    with patch.object(names, "_CHUNK", 2):
        found = find_derived(paths)
    with patch.object(names, "_likely_derived", list):  # each name is looked at
        assert find_derived(paths) == found
    assert found >= {path for path in paths if is_derived(path)}


def test_masks_in_class_folders_are_left_out_counted_and_can_be_kept(tmp_path):
    kept = [f"{label}/images/{label}-{i}.png" for label in ("COVID", "Normal") for i in range(10)]
    make(tmp_path, *kept, *(name.replace("images", "masks") for name in kept))
    data = opened(tmp_path)
    assert list(rows(data)) == kept
    assert noted(data, "20 images left out (mask, overlay, map or thumbnail by name): COVID/masks/COVID-0.png")
    assert noted(data, "To use them as radiographs, give --keep-masks")
    flow = [("Image files", 40), ("Left out: mask, overlay, map or thumbnail by name", 20), ("Images used", 20)]
    assert data.flow()[:3] == flow
    assert len(opened(tmp_path, keep_masks=True)) == 40


def test_masks_among_images_and_as_a_class_of_their_own(tmp_path):
    root = classes(tmp_path / "data", a=6, b=6)
    clean = opened(root)
    make(root, "masks/a000.png", "masks/b000.png", "a/a001_mask.png", "b/thumbs/b1.jpg")
    data = opened(root)
    assert data.labels == ("a", "b") and data.fingerprint() == clean.fingerprint()
    assert dict(data.left_out)["mask, overlay, map or thumbnail by name"] == (
        "masks/a000.png", "masks/b000.png", "a/a001_mask.png", "b/thumbs/b1.jpg"
    )  # fmt: skip


def test_masks_with_the_names_of_the_images_of_a_table(tmp_path):
    make(tmp_path, *(f"{folder}/{i}.png" for folder in ("images", "masks") for i in range(10)))
    table(tmp_path, lines("image,label", "{i}.png,{ab}"))
    assert list(rows(opened(tmp_path))) == [f"images/{i}.png" for i in range(10)]
    (tmp_path / "images/3.png").unlink()
    assert "row 5: image '3.png' not found" in message(DataError, tmp_path)
    table(tmp_path, lines("image,label", "images/{i}.png,{ab}", 6) + lines("", "masks/{i}.png,{ab}", 6))
    data = opened(tmp_path, missing="skip")
    assert list(rows(data)) == [f"images/{i}.png" for i in range(6) if i != 3] and noted(data, "6 images left out")


def test_masks_beside_the_folders_of_splits(tmp_path):
    make(tmp_path, *(f"{s}/{label}/{label}{i}{s}.png" for s in ("train", "TEST") for label in "ab" for i in range(6)))
    make(tmp_path, *(f"masks/a{i}.png" for i in range(6)), "__MACOSX/a/._a0.png", "@eaDir/a0.png/THUMB.jpg")
    data = opened(tmp_path)
    assert len(data) == 24 and data.labels == ("a", "b") and noted(data, "6 images left out")


@pytest.mark.parametrize("suffix", ["_lung", "-left", " ROI", "_crop2", "_gray", "_PA", " (1)"])
def test_crops_next_to_their_image_stay_in_its_split(tmp_path, suffix):
    names = [f"{label}/{label}{i:02d}{end}.png" for label in "ab" for i in range(20) for end in ("", suffix)]
    data = opened(make(tmp_path, *names))
    split = splits(data)
    assert len(split) == 80 and all(split[name] == split[name.replace(suffix, "")] for name in names)
    assert noted(data, "40 images with the name of an augmented copy")


def test_one_name_with_two_suffixes_is_one_image_unless_it_is_only_a_number(tmp_path):
    names = [f"{label}/{i:02d}.{end}" for label in "ab" for i in range(20) for end in ("png", "jpg")]
    split = splits(opened(make(tmp_path / "both", *names)))
    assert all(split[name] == split[name.replace("jpg", "png")] for name in names)
    numbered = make(tmp_path / "numbered", *(f"{label}/{label} ({i}).png" for label in "ab" for i in range(8)))
    assert not noted(opened(numbered), "kept in the same split as that image")


@pytest.mark.parametrize(
    "suffix",
    [
        *("_small.jpg", "_seg.png", "_overlay.png", "_heatmap.png", "_thumb.png", "-preview.jpg", "_lbl.png"),
        *(
            "_edges.png",
            "_low_res.png",
            "_pred.png",
            "_seg_lung.png",
            "_maskA.png",
            "_mask_left.png",
            "_lungmask_v2.png",
        ),
        *("_GradCAM++.png", "_with_boxes.png", "_attention.png", "_color.png", "_prob_map.png", ".result1.png"),
    ],
)
def test_smaller_copies_and_maps_next_to_their_image_are_left_out(tmp_path, suffix):
    root = classes(tmp_path, a=6, b=6)
    make(root, f"a/a000{suffix}", f"b/b001{suffix}")
    data = opened(root)
    assert len(data) == 12 and noted(data, "2 images left out")
    make(root, "a/very_small.png")
    assert "a/very_small.png" in rows(opened(root))


@pytest.mark.parametrize("folder", ["predictions", "attention_maps", "labels", "bounding boxes", "probability-maps"])
def test_folders_of_derived_images_are_left_out_if_their_file_names_are_those_of_images(tmp_path, folder):
    images = [f"{label}/images/{label}{i}.png" for label in "ab" for i in range(6)]
    make(tmp_path, *images, *(name.replace("images", folder) for name in images), f"a/{folder}/other.png")
    assert list(rows(opened(tmp_path))) == sorted([*images, f"a/{folder}/other.png"])


@pytest.mark.parametrize("name", ["{0}_infected lung.png", "{0}-150x150.png", "{0}_512.png", "x_{0}.png"])
def test_files_whose_name_extends_that_of_another_stay_in_its_split(tmp_path, name):
    names = [f"{label}/{one}" for label in "ab" for i in range(10, 30) for one in (f"{i}.png", name.format(i))]
    data = opened(make(tmp_path, *names))
    split = splits(data)
    assert all(split[f"{label}/{i}.png"] == split[f"{label}/{name.format(i)}"] for label in "ab" for i in range(10, 30))
    assert noted(data, "If they are not radiographs, leave them out")


@pytest.mark.parametrize("folder", ["visualization", "predictions", "Attention Maps", "boxes"])
def test_one_folder_of_maps_of_all_classes_is_no_class(tmp_path, folder):
    images = [f"{label}/{label}{i}.png" for label in ("mass", "normal") for i in range(4)]
    maps = [f"{folder}/{image.rpartition('/')[2]}" for image in images[2:]]
    data = opened(make(tmp_path, *images, *maps))
    assert sorted(rows(data)) == images and noted(data, "6 images left out (mask, overlay, map or thumbnail by name)")


def test_a_class_called_like_a_folder_of_maps_with_names_of_its_own_stays(tmp_path):
    data = opened(make(tmp_path, *(f"{label}/{label}{i}.png" for label in ("box", "normal") for i in range(4))))
    assert data.labels == ("box", "normal")


def test_masks_are_found_where_the_folder_around_all_images_is_named_for_masks():
    folders = [f"Lung Segmentation Data/Lung Segmentation Data/Train/{label}" for label in ("COVID-19", "Normal")]
    images = [f"{folder}/images/{i}.png" for folder in folders for i in range(3)]
    masks = [f"{folder}/{kind} masks/{i}.png" for folder in folders for kind in ("lung", "infection") for i in range(3)]
    assert find_derived(images + masks) == set(masks)
    assert find_derived(images) == find_derived(masks) == find_derived([]) == set()
