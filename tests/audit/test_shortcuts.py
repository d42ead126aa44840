"""Labels that can be predicted from properties of the file instead of the lungs."""

import numpy as np
import pytest

from tests.audit.sets import manifest
from xrayfast.audit.features import Features
from xrayfast.audit.shortcuts import ALL, NOTABLE, _held_out_auroc, _ranked, _shuffled, predictable_labels, probe
from xrayfast.data.cache.shards import ImageInfo

COUNT = 300


def features(count=COUNT, seed=0, **columns):
    """Return features of images that differ at random in every property, except those given by name."""
    rng = np.random.default_rng(seed)
    chance = {
        "width": rng.integers(900, 1100, count).tolist(),
        "height": rng.integers(900, 1100, count).tolist(),
        "bits": rng.choice([8, 12], count).tolist(),
        "mode": rng.choice(["L", "RGB"], count).tolist(),
        "format": rng.choice(["PNG", "JPEG"], count).tolist(),
        "notes": [("nearly black",) * int(number < 0.5) for number in rng.random(count)],
    }
    chance.update({name: list(values) for name, values in columns.items() if name in chance})
    facts = tuple(
        ImageInfo(digest=str(i), **{name: values[i] for name, values in chance.items()}) for i in range(count)
    )
    arrays = {
        name: np.asarray(columns.get(name, rng.random((count, width))), np.float32)
        for name, width in (("border", 8), ("brightness", 7), ("histogram", 16), ("texture", 4))
    }
    thumbs, thumb_rows = np.zeros((count, 40, 40), np.uint8), np.zeros((count, 2), np.int64)
    return Features(np.arange(count), facts, thumbs, thumb_rows, **arrays)


def asked(truth, found=None, patients=None, **options):
    data = manifest(truth, patients=patients, **options)
    groups = np.arange(len(data)) if patients is None else np.unique(patients, return_inverse=True)[1]
    return probe(data, found or features(len(data)), groups)


def coin(count=COUNT, labels=1, seed=1, share=0.5):
    return (np.random.default_rng(seed).random((count, labels)) < share).astype(float)


@pytest.mark.parametrize(
    ("group", "plant"),
    [
        ("size", lambda y: {"width": 1000 + 24 * y, "height": 1000 + 24 * y}),
        ("aspect", lambda y: {"width": 1000 + 300 * y, "height": [1000] * COUNT}),
        ("bits", lambda y: {"bits": (8 + 4 * y).astype(int)}),
        ("coding", lambda y: {"format": np.where(y, "PNG", "JPEG")}),
        ("coding", lambda y: {"mode": np.where(y, "L", "RGB")}),
        ("border", lambda y: {"border": np.column_stack([y, np.zeros((COUNT, 7))])}),
        ("brightness", lambda y: {"brightness": np.column_stack([y + 0.1, np.zeros((COUNT, 6))])}),
        ("histogram", lambda y: {"histogram": np.column_stack([y, np.zeros((COUNT, 15))])}),
        ("texture", lambda y: {"texture": np.column_stack([y, np.zeros((COUNT, 3))])}),
        ("notes", lambda y: {"notes": [("may lie on its side", "12 bits stored")[int(not one) :] for one in y]}),
    ],
)
def test_a_planted_shortcut_is_found_where_it_is(group, plant):
    truth = coin()
    noisy = np.where(np.random.default_rng(2).random(COUNT) < 0.05, 1 - truth[:, 0], truth[:, 0])
    found = asked(truth, features(**plant(noisy)))
    notable = found.notable("a")
    assert notable[group] > 0.9
    assert notable[ALL] > 0.9
    assert set(notable) <= {group, ALL, *(["size"] if group == "aspect" else [])}
    assert found.chance[group]["a"] < 0.75


def test_a_width_shared_by_all_images_of_a_label_is_a_shortcut_too():
    """The width is neither larger nor smaller than the others, so a linear model in the width would miss it."""
    truth = coin(share=0.3)
    rng = np.random.default_rng(3)
    width = np.where(truth[:, 0] == 1, 512, rng.choice([256, 300, 1024, 2048], COUNT))
    found = asked(truth, features(width=width.tolist(), height=width.tolist()))
    assert found.auroc["size"]["a"] > 0.95


def test_a_note_about_a_routine_step_is_no_property():
    """The bit depth is a property of its own; the note about it would count it twice."""
    truth = coin()
    assert asked(truth, features(notes=[("12 bits stored",) * int(one) for one in truth[:, 0]])).auroc["notes"] == {
        "a": None
    }


def test_a_known_view_is_a_property():
    truth = coin()
    views = np.where(truth[:, 0] == 1, "AP", "PA").astype(object)
    views[::10] = None
    assert asked(truth, views=views).auroc["view"]["a"] > 0.9
    assert asked(truth).auroc["view"]["a"] is None


def test_random_labels_are_no_shortcut():
    for seed in range(5):
        found = asked(coin(labels=6, seed=seed, share=0.2), features(seed=seed + 50))
        assert all(found.notable(label) == {} for label in "abcdef")
        assert max(found.auroc[ALL].values()) < NOTABLE


def test_chance_is_no_shortcut_on_a_tiny_set():
    """Ten images with and ten without the label: an AUROC of 0.7 is frequent by chance and no finding."""
    notable = high = 0
    for seed in range(30):
        truth = np.repeat([[0.0], [1.0]], 10, axis=0)
        found = asked(truth, features(20, seed=seed))
        values = [group["a"] for group in found.auroc.values() if group["a"] is not None]
        high += sum(value > NOTABLE for value in values)
        notable += len(found.notable("a"))
    assert high > 10
    assert notable <= 0.03 * 30 * 8


def test_a_shortcut_of_few_patients_is_no_better_than_chance():
    """Six patients of each kind with many images: what the images of a patient share would predict the label."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(12), 25)
    truth = (patients % 2 == 0).astype(float)[:, None]
    own = rng.random((12, 7))[patients] + rng.normal(0, 0.01, (300, 7))
    found = asked(truth, features(brightness=own), patients=[f"P{i}" for i in patients])
    assert found.auroc["brightness"]["a"] < 0.8  # it would be 1 without folds by patient
    assert "brightness" not in found.notable("a")


def test_labels_with_few_images_are_left_out_and_named():
    truth = coin(labels=4)
    truth[:, 1] = 0
    truth[:9, 1] = 1
    truth[:, 2] = 1
    truth[:9, 2] = 0
    truth[:, 3] = np.nan
    found = asked(truth)
    assert found.auroc[ALL]["a"] is not None
    assert all(values[label] is None for values in found.auroc.values() for label in "bcd")
    assert found.too_few == {
        "b": "9 images with it; at least 10 are needed",
        "c": "9 images without it; at least 10 are needed",
        "d": "0 images with it; at least 10 are needed",
    }
    one_patient = asked(coin(), patients=["P1"] * 299 + ["P2"])
    assert one_patient.too_few == {"a": "images with it are of fewer than 5 patients"}


def test_masked_cells_are_ignored():
    truth = coin(labels=2)
    known = np.random.default_rng(4).random(COUNT) < 0.5
    truth[~known, 1] = np.nan
    brightness = np.random.default_rng(5).random((COUNT, 7))
    brightness[known, 0] = truth[known, 1]  # predicts the unmasked cells and says nothing about the others
    found = asked(truth, features(brightness=brightness))
    assert found.auroc["brightness"]["b"] > 0.95
    assert found.auroc["brightness"]["a"] < 0.65


def test_a_property_that_is_constant_among_the_unmasked_images_has_no_number():
    """Nothing varies among the remaining images: there is no number, and no crash."""
    truth = coin(labels=2)
    truth[COUNT // 2 :, 1] = np.nan
    bits = [8] * (COUNT // 2) + [8, 12] * (COUNT // 4)
    found = asked(truth, features(bits=bits))
    assert found.auroc["bits"]["b"] is None
    assert found.auroc["bits"]["a"] is not None


def test_one_image_unlike_all_others():
    """When that image is held out, there is nothing to learn from."""
    found = asked(coin(), features(bits=[16] + [8] * (COUNT - 1)))
    assert 0.4 < found.auroc["bits"]["a"] < 0.6
    truth = np.repeat([[0.0], [1.0]], 5, axis=0)
    assert _held_out_auroc(np.eye(10)[:, :1], truth, np.arange(10) % 5)[0] == pytest.approx(0.5, abs=0.2)


def test_constant_properties_have_no_number():
    same = features(width=[512] * COUNT, height=[512] * COUNT, bits=[8] * COUNT, mode=["L"] * COUNT,
                    format=["PNG"] * COUNT)  # fmt: skip
    found = asked(coin(), same)
    assert [name for name, values in found.auroc.items() if values["a"] is None] == [
        "size", "aspect", "bits", "coding", "view",
    ]  # fmt: skip
    assert found.auroc[ALL]["a"] is not None


def test_it_is_reproducible_and_leaves_the_global_state_alone():
    state = np.random.get_state()[1].copy()
    assert asked(coin(labels=3)) == asked(coin(labels=3))
    assert (np.random.get_state()[1] == state).all()


def test_no_images_at_all():
    found = asked(np.zeros((0, 1)), features(0))
    assert found.images == 0
    assert found.auroc[ALL] == {"a": None}


def test_a_sample_of_many_images_is_enough(monkeypatch):
    monkeypatch.setattr("xrayfast.audit.shortcuts._MOST_IMAGES", 200)
    truth = coin(1000)
    found = asked(truth, features(1000, brightness=np.column_stack([truth, np.zeros((1000, 6))])))
    assert found.images == 200
    assert found.auroc["brightness"]["a"] > 0.95


def test_the_regression_equals_scikit_learns():
    from sklearn.linear_model import Ridge
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    x, folds = rng.normal(size=(400, 12)), rng.integers(0, 5, 400)
    truth = (x @ rng.normal(size=(12, 3)) + rng.normal(0, 3, (400, 3)) > 0).astype(float)
    scores = np.zeros_like(truth)
    for fold in range(5):
        train = folds != fold
        penalty = 0.005 * (x[train].var(0) * train.sum()).sum()
        model = Ridge(alpha=penalty).fit(x[train], truth[train])
        scores[~train] = model.predict(x[~train]) - truth[train].mean(0)
    wanted = [roc_auc_score(truth[:, j], scores[:, j]) for j in range(3)]
    np.testing.assert_allclose(_held_out_auroc(x, truth, folds), wanted, atol=1e-9)


def test_the_regression_is_about_as_good_as_gradient_boosted_trees():
    """The shortcut is a combination of several properties; gradient-boosted trees are the reference."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    brightness = rng.random((600, 7))
    odds = 4 * (brightness[:, 0] > 0.6) + 3 * brightness[:, 1] - 3 * np.abs(brightness[:, 2] - 0.5) - 2.5
    truth = (rng.random(600) < 1 / (1 + np.exp(-odds))).astype(float)
    found = asked(truth[:, None], features(600, brightness=brightness)).auroc["brightness"]["a"]
    trees = HistGradientBoostingClassifier(max_depth=3, max_iter=50, random_state=0)
    half = trees.fit(brightness[:400], truth[:400]).predict_proba(brightness[400:])[:, 1]
    assert found > roc_auc_score(truth[400:], half) - 0.03


def test_ranks_and_fifths():
    columns = _ranked(np.array([5.0, 1.0, 1.0, 9.0, 7.0]))
    np.testing.assert_allclose(columns[:, 0], [0.5, 0.2, 0.2, 0.9, 0.7])
    assert columns[:, 1:].astype(int).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


def test_a_shuffle_keeps_values_and_patients_together():
    groups = np.repeat(np.arange(40), 10)
    values = (groups % 4 == 0).astype(float)
    shuffled = _shuffled(values, groups, np.random.default_rng(0))
    assert shuffled.sum() == values.sum()
    assert (shuffled != values).any()
    assert all(len(set(shuffled[groups == group])) == 1 for group in range(40))


def test_only_planted_shortcuts_are_predicted_better_than_by_chance():
    truth = coin(labels=3)
    found = features(width=1000 + 100 * truth[:, 1])
    data = manifest(truth)
    predicted = predictable_labels(data, found, np.arange(len(data)))
    (label,) = predicted
    assert label == data.labels[1] and predicted[label] > 0.99
    assert predicted[label] == asked(truth, found).auroc[ALL][label]


@pytest.mark.slow
def test_labels_without_a_shortcut_are_named_in_one_percent():
    found, rows = features(120), np.arange(120)
    named = [len(predictable_labels(manifest(coin(120, 4, seed)), found, rows)) for seed in range(100)]
    assert sum(named) <= 12  # of 400, of which 4 are expected


def test_a_label_that_all_images_have_is_not_predicted():
    truth = coin(24, 2)
    truth[:, 1] = 1
    assert predictable_labels(manifest(truth), features(24), np.arange(24)) == {}
