"""Explanations of files, and of the cases in a report."""

import shutil

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import xrayfast as xf
from xrayfast.data.images.reader import fit_square
from xrayfast.errors import ConfigError, ReadError
from xrayfast.learning.inference.predictor import Predictor
from xrayfast.learning.inference.saliency import grad_cam
from xrayfast.metrics.operating_points.calibration import Temperature
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.reporting.case import Case
from xrayfast.workflows import explain as explaining
from xrayfast.workflows.explain import explain_cases


def case(image, actual="", predicted=""):
    return Case(image, actual, predicted, 0.5, 1.0, None)


def files(data_dir, n=5):
    return sorted(data_dir.rglob("*.png"))[:: 36 // n][:n]


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_probabilities_are_those_of_predict(kind, tiny_run, tiny_multi_run, data_dir):
    run = tiny_run if kind == "single" else tiny_multi_run
    explanations = xf.explain(run, files(data_dir), device="cpu")
    table = xf.predict(run, [str(file) for file in files(data_dir)], device="cpu")
    assert [one.file for one in explanations] == table["file"].tolist()
    assert [one.predicted for one in explanations] == table["predicted"].tolist()
    for one, (_, row) in zip(explanations, table.iterrows(), strict=True):
        assert list(one.probabilities) == list(run.labels)
        for label, probability in one.probabilities.items():
            assert probability == pytest.approx(row[f"prob_{label}"], abs=1e-6)
        assert one.label == max(one.probabilities, key=one.probabilities.get)


def test_probabilities_are_calibrated_as_the_run_says(tiny_run, data_dir, tmp_path):
    run = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    file = files(data_dir)[0]
    run.write_decision(Decision(run.task, run.labels))
    plain = xf.explain(run, file, device="cpu").probabilities
    run.write_decision(Decision(run.task, run.labels, Temperature(4.0, "")))
    found = xf.explain(run, file, device="cpu").probabilities
    logits = np.log(np.array(list(plain.values()))) / 4
    assert list(found.values()) == pytest.approx(np.exp(logits) / np.exp(logits).sum(), abs=1e-6)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_heat_is_grad_cam_on_the_image_as_the_network_sees_it(kind, tiny_run, tiny_multi_run, data_dir):
    run = tiny_run if kind == "single" else tiny_multi_run
    file, label = files(data_dir)[1], run.labels[-1]
    one = xf.explain(run, file, label=label, device="cpu")
    assert isinstance(one, explaining.Explanation)
    assert one.label == label
    learn = xf.load(run, device="cpu")
    size = run.config.model.size
    image = fit_square(np.asarray(Image.open(file).convert("L")), size).astype(np.float32) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    batch = ((torch.from_numpy(image)[None] - mean[:, None, None]) / std[:, None, None])[None]
    expected = grad_cam(learn.model, batch, torch.tensor([len(run.labels) - 1]))[0]
    np.testing.assert_allclose(one.heat, expected.numpy(), atol=1e-5)
    assert one.pixels.shape == (256, 256)
    assert (one.pixels == fit_square(np.asarray(Image.open(file).convert("L")), 256)).all()


def test_a_label_that_the_network_lacks_is_an_error_with_a_suggestion(tiny_run, data_dir):
    with pytest.raises(ConfigError, match=r"label is 'pneumona'\. Did you mean 'pneumonia'\?.*covid-19, normal"):
        xf.explain(tiny_run, files(data_dir), label="pneumona")
    with pytest.raises(ConfigError, match="Did you mean 'normal'"):
        explain_cases(tiny_run, [case("a")], {"a": files(data_dir)[0]}, label="norml")


def test_a_file_that_cant_be_read_is_an_error_that_names_it(tiny_run, data_dir, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("<html>not found</html>")
    with pytest.raises(ReadError, match=r"bad\.png: found HTML"):
        xf.explain(tiny_run, [files(data_dir)[0], bad])
    with pytest.raises(ReadError, match=r"gone\.png"):
        xf.explain(tiny_run, tmp_path / "gone.png")
    assert xf.explain(tiny_run, []) == []


def test_each_file_is_read_once_and_chunks_change_nothing(tiny_run, data_dir, monkeypatch):
    reads = []
    read = explaining.read
    monkeypatch.setattr(explaining, "read", lambda file, window: reads.append(file) or read(file, window))
    at_once = xf.explain(tiny_run, files(data_dir), device="cpu")
    assert reads == files(data_dir)
    monkeypatch.setattr(explaining, "EXPLAINED_AT_ONCE", 2)
    for one, other in zip(at_once, xf.explain(tiny_run, files(data_dir), device="cpu"), strict=True):
        assert (one.file, one.label) == (other.file, other.label)
        np.testing.assert_allclose(one.heat, other.heat, atol=1e-5)


def test_an_explanation_is_drawn_and_saved(tiny_run, data_dir, tmp_path):
    one = xf.explain(tiny_run, str(files(data_dir)[0]), device="cpu")
    assert one.overlay().shape == (*one.pixels.shape, 3)
    texts = [text.get_text() for axes in one.plot().axes for text in axes.texts]
    assert f"Explained: {one.label} ({one.probabilities[one.label]:.2f})" in texts[1]
    assert "Actual" not in texts[1]
    axes = Figure().add_subplot()
    assert one.plot(ax=axes) is axes
    np.testing.assert_array_equal(axes.images[0].get_array(), one.overlay())
    probability = one.probabilities[one.label]
    assert repr(one) == f"Explanation('{one.file}': {one.label} {probability:.2f})"
    assert one._repr_html_().count("<img") == 2 and f">{probability:.3f}<" in one._repr_html_()
    one.save(tmp_path / "one.png")
    one.save(str(tmp_path / "one.SVG"))
    for path, words in ((None, "path is None"), (tmp_path / "one.bmp", "ending '.bmp'; expected .png, .svg, .pdf")):
        with pytest.raises(ConfigError, match=words):
            one.save(path)
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def bright(tiny_run, monkeypatch):
    """The run with a network whose first logit is the mean brightness, from cells of 2 x 2 pixels."""
    conv, last = nn.Conv2d(3, 1, 2, stride=2, bias=False), nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        conv.weight.fill_(1 / 12)
        last.weight.copy_(torch.tensor([[1.0], [0.0], [-1.0]]))
    body = nn.Sequential(nn.Sequential(conv, nn.ReLU(inplace=True)))
    network = nn.Sequential(body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), last))

    def from_run(run, device, arch=None):
        return Predictor(network, run.decision, run.config.model.size)

    monkeypatch.setattr(Predictor, "from_run", from_run)
    return tiny_run


@pytest.mark.parametrize(("height", "width"), [(100, 100), (240, 120), (120, 240)])
@pytest.mark.parametrize(("down", "right"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_the_overlay_marks_the_bright_corner_for_any_aspect_ratio(bright, tmp_path, height, width, down, right):
    image = np.full((height, width), 30, np.uint8)
    rows, columns = height // 3, width // 3
    image[down * 2 * rows : down * 2 * rows + rows, right * 2 * columns : right * 2 * columns + columns] = 220
    Image.fromarray(image).save(tmp_path / "image.png")
    one = xf.explain(bright, tmp_path / "image.png", label=bright.labels[0], device="cpu")
    laid = one.overlay().astype(int)
    color = laid.max(axis=2) - laid.min(axis=2)
    spot = one.pixels > 200
    assert color[spot].mean() > 10 * color[~spot].mean()
    assert spot[np.unravel_index(color.argmax(), color.shape)]
    # The spot is a third of the image high and wide; 0.7 of each is inside the central thorax. Padding doesn't count.
    assert one.outside == pytest.approx(1 - 0.7**2, abs=0.1)


def test_cases_keep_names_order_and_labels_and_omit_missing_files(bright, data_dir, tmp_path):
    good = files(data_dir, 4)
    cases = [case("first", "normal", "covid-19"), case("gone"), case("unknown"), case("second", "", "a, b")]
    paths = {"first": good[0], "gone": tmp_path / "gone.png", "second": good[1]}
    explained, notes = explain_cases(bright, cases, paths, device="cpu")
    assert [(case.image, case.actual, case.predicted) for case in explained] == [
        ("first", "normal", "covid-19"),
        ("second", "", "a, b"),
    ]
    labeled, _ = explain_cases(bright, cases, paths, label="covid-19", device="cpu")
    assert [case.label for case in labeled] == ["covid-19"] * 2
    one = xf.explain(bright, good[1], device="cpu")
    assert explained[1].label == one.label
    assert explained[1].probability == pytest.approx(one.probabilities[one.label], abs=1e-6)
    np.testing.assert_allclose(explained[1].heat, one.heat, atol=1e-5)
    assert notes[0] == "2 of 4 images can no longer be read and are left out."
    assert "outside the central thorax" in notes[1] and "mean rank correlation" in notes[2]
    assert len(notes) == 3


def test_a_network_that_goes_by_corner_marks_gets_a_warning(bright, tmp_path):
    paths = {f"{n}.png": tmp_path / f"{n}.png" for n in range(3)}
    for n, path in enumerate(paths.values()):
        image = np.zeros((100, 100), np.uint8)
        image[2:12, 85:98] = 255 - n
        Image.fromarray(image).save(path)
    explained, notes = explain_cases(bright, [case(name) for name in paths], paths, label=bright.labels[0])
    assert min(case.outside for case in explained) > 0.6
    assert notes[0].startswith("Warning sign:") and "corner marks" in notes[0]


def test_maps_too_coarse_for_the_checks_say_so(tiny_run, data_dir):
    cases, notes = explain_cases(tiny_run, [case("a")], {"a": files(data_dir)[0]}, device="cpu")
    assert cases[0].heat.shape == (1, 1)
    assert len(notes) == 1 and "1 × 1 cells" in notes[0]
    assert explain_cases(tiny_run, [], {}) == ((), ())
