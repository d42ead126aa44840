"""The JSON endpoint answers as `predict` and `explain` do, keeps nothing and refuses strangers."""

import asyncio
import base64
import io
import json
import logging
import re
import shutil
import socket
import tempfile
import threading

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

import xrayfast as xf
from tests.data.images.dicom_files import dicom_bytes
from xrayfast.cli import app as command
from xrayfast.data.images.reader import fit_square, read
from xrayfast.errors import ConfigError, RunError
from xrayfast.serving import uploads as uploads_module
from xrayfast.serving import worker as worker_module
from xrayfast.serving.access import Access, is_loopback
from xrayfast.serving.app import make_app
from xrayfast.serving.classifier import Classifier, Upload
from xrayfast.serving.server import address_of, open_socket
from xrayfast.serving.worker import Busy, Worker

HERE = "http://127.0.0.1:8000"
OPEN = Access.of("127.0.0.1", "")


@pytest.fixture(scope="module")
def classifier(tiny_run):
    return Classifier(tiny_run, None, "cpu", pytest.fail)


@pytest.fixture
def client(classifier):
    with TestClient(make_app(classifier, OPEN, pytest.fail), base_url=HERE) as found:
        yield found


@pytest.fixture(scope="module")
def images(data_dir, tmp_path_factory):
    """A PNG, a 16-bit PNG that is not square, a DICOM without suffix, a text, an empty file and a mask."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.asarray(Image.open(next(data_dir.glob("normal/*.png"))))
    shutil.copy(next(data_dir.glob("covid-19/*.png")), folder / "a.png")
    Image.fromarray(pixels[:50].astype(np.uint16) * 16).save(folder / "b.png")
    (folder / "c").write_bytes(dicom_bytes(pixels.astype(np.uint16) * 16, bits=12))
    (folder / "d.png").write_text("no image")
    (folder / "e.dcm").write_bytes(b"")
    shutil.copy(folder / "a.png", folder / "f_mask.png")
    return folder


def sent(folder):
    return [("files", (path.name, path.read_bytes())) for path in sorted(folder.iterdir())]


def pixels_of(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.mark.parametrize(("fixture", "below"), [("tiny_run", None), ("tiny_multi_run", 0.6)])
def test_the_csv_equals_that_of_predict(request, images, tmp_path, monkeypatch, fixture, below):
    run = request.getfixturevalue(fixture)
    names = sorted(path.name for path in images.iterdir())
    monkeypatch.chdir(images)
    words = ["predict", str(run.path), *names, "-o", str(tmp_path / "p.csv"), "--device", "cpu"]
    if below:
        words += ["--abstain-below", str(below)]
    assert CliRunner().invoke(command, words).exit_code == 1  # two files are unreadable
    classifier = Classifier(run, below, "cpu", lambda text: None)
    uploads = [Upload(name, (images / name).read_bytes()) for name in names]
    answer = classifier.answer(uploads, image=False, saliency=False)
    assert answer.csv.header + answer.csv.rows == (tmp_path / "p.csv").read_text()
    table = xf.predict(run, names, abstain_below=below, device="cpu", note=lambda text: None)
    for found, row in zip(answer.files, table.to_dict("records"), strict=True):
        assert (found.file, found.error or "", "; ".join(found.notes)) == (row["file"], row["error"], row["notes"])
        if row["error"]:
            assert not found.labels and found.image is found.saliency is None
            continue
        assert [one.label for one in found.labels] == list(run.labels)
        for name in ("predicted", "abstained"):
            chosen = [one.label for one in found.labels if getattr(one, name)]
            assert "|".join(chosen) == row.get(name, "")
    assert not below or any(one.abstained for found in answer.files for one in found.labels)


def test_the_thresholds_in_the_answer_decide(tiny_multi_run, classifier, client, images):
    found = Classifier(tiny_multi_run, None, "cpu", pytest.fail).answer(
        [Upload("a.png", (images / "a.png").read_bytes())], image=False, saliency=False
    )
    points = tiny_multi_run.decision.point_of
    for one in found.files[0].labels:
        assert one.threshold == points[one.label].threshold
        assert one.predicted == (one.probability >= one.threshold)
    answer = client.post("/api/predict", files=sent(images)).json()["files"][0]["labels"]
    assert {one["threshold"] for one in answer} == set(classifier.thresholds)
    assert [one["predicted"] for one in answer] == [
        one["probability"] == max(other["probability"] for other in answer) for one in answer
    ]


def test_image_and_map_are_what_the_network_sees(classifier, client, images, tiny_run):
    answer = client.post("/api/predict?image=true&saliency=true", files=sent(images)).json()["files"]
    explained = xf.explain(tiny_run, [images / "a.png", images / "b.png"], device="cpu")
    for found, of_run in zip(answer, explained, strict=False):
        square = fit_square(read(of_run.file).pixels, classifier.size)
        assert (pixels_of(found["image"]) == square).all()
        assert found["saliency"]["label"] == of_run.label
        outside = np.nan if found["saliency"]["outside"] is None else found["saliency"]["outside"]
        np.testing.assert_allclose(outside, of_run.outside)
        assert pixels_of(found["saliency"]["image"]).shape == (224, 224, 3)
    assert [found["saliency"] is None for found in answer] == [bool(found["error"]) for found in answer]


def test_no_file_is_opened_for_an_upload(client, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # where no file can be created
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    assert len(buffer.getvalue()) > 2**21
    named = ("../../etc/passwd", buffer.getvalue())
    found = client.post("/api/predict", files=[("files", named), ("files", ("/etc/hosts", b"no image"))]).json()[
        "files"
    ]
    assert found[0]["labels"] and found[1]["error"].startswith("/etc/hosts: found no image")


LIMITS = {
    "none": (lambda: {"files": []}, {}, 415, "multipart/form-data"),
    "another field": (lambda: {"files": [("x", ("a", b"a"))]}, {}, 400, "found files in the field 'x'"),
    "a value": (lambda: {"files": [("files", ("a", b"a"))], "data": {"x": "1"}}, {}, 400, "no other field"),
    "too many": (lambda: {"files": [("files", ("a", b"a"))] * 3}, {"MAX_FILES": 2}, 400, "expected 1 to 2 files"),
    "too large": (lambda: {"files": [("files", ("a", b"a" * 2**21))]}, {"MAX_REQUEST_BYTES": 2**20}, 413, "than 1 MB"),
    "too much": (lambda: {"files": [("files", ("a", b"a" * 2**21))]}, {"MAX_HELD_BYTES": 2**20}, 503, "again later"),
    "no length": (
        lambda: {"content": iter([b"a" * 2**21]), "headers": {"content-type": "multipart/form-data; boundary=a"}},
        {"MAX_REQUEST_BYTES": 2**20}, 413, "than 1 MB",
    ),
    "damaged": (
        lambda: {"content": b"--a\r\nno header", "headers": {"content-type": "multipart/form-data; boundary=a"}},
        {}, 400, "can't be read",
    ),
    "a form without files": (
        lambda: {"content": b"--a--\r\n", "headers": {"content-type": "multipart/form-data; boundary=a"}},
        {}, 400, "found no file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_too_large_or_malformed_requests_get_a_named_error(client, monkeypatch, name):
    request, limits, status, text = LIMITS[name]
    for limit, value in limits.items():
        monkeypatch.setattr(uploads_module, limit, value)
    answer = client.post("/api/predict", **request())
    assert (answer.status_code, text in answer.json()["error"]) == (status, True), answer.text
    assert logging.getLogger("python_multipart").handlers, "its warnings would be written to the terminal"
    monkeypatch.undo()
    # Refused requests hold no memory.
    monkeypatch.setattr(uploads_module, "MAX_HELD_BYTES", 10_000)
    assert client.post("/api/predict", files=[("files", ("a", b"a"))]).status_code == 200


def test_incomplete_uploads_hold_no_memory(classifier, monkeypatch):
    monkeypatch.setattr(uploads_module, "MAX_SECONDS", 0.05)
    monkeypatch.setattr(uploads_module, "MAX_HELD_BYTES", 1500)
    app, kind = make_app(classifier, OPEN, pytest.fail), b"multipart/form-data; boundary=a"
    scope = {"type": "http", "method": "POST", "path": "/api/predict", "query_string": b""}
    scope["headers"] = [(b"host", b"127.0.0.1"), (b"content-type", kind)]

    async def send_a_thousand_bytes():
        answers, chunks = [], [b"--a\r\n" + b"x" * 1000]

        async def receive():
            if not chunks:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": chunks.pop(), "more_body": True}

        async def send(message):
            answers.append(message)

        await app(scope, receive, send)
        return answers[0]["status"]

    assert [asyncio.run(send_a_thousand_bytes()) for _ in range(3)] == [408] * 3


@pytest.mark.parametrize("query", ["image=1", "x=true", "saliency=", "image=true&saliency=no"])
def test_options_that_do_not_exist_are_named(client, query):
    answer = client.post(f"/api/predict?{query}", files=[("files", ("a", b"a"))])
    assert answer.status_code == 400 and "expected image or saliency" in answer.json()["error"]


def test_an_option_that_is_given_twice_is_refused(client):
    answer = client.post("/api/predict?image=true&image=false", files=[("files", ("a", b"a"))])
    assert answer.status_code == 400 and "found image more than once" in answer.json()["error"]


def test_a_form_without_a_boundary_is_told_that_it_lacks_one(client):
    answer = client.post("/api/predict", content=b"a", headers={"Content-Type": "multipart/form-data"})
    assert answer.status_code == 415 and "expected multipart/form-data with a boundary" in answer.json()["error"]


def test_twenty_requests_at_once_are_answered_in_order(classifier, images, monkeypatch):
    import httpx2

    content, computed, alone, real = (images / "a.png").read_bytes(), [], threading.Lock(), classifier.answer

    def answer(uploads, **options):
        assert alone.acquire(blocking=False), "two at once"
        computed.append(uploads[0].name)
        try:
            return real(uploads, **options)
        finally:
            alone.release()

    monkeypatch.setattr(classifier, "answer", answer)
    names = [f"{number}.png" for number in range(20)]

    async def send_all():
        transport = httpx2.ASGITransport(make_app(classifier, OPEN, pytest.fail))
        async with httpx2.AsyncClient(transport=transport, base_url=HERE) as client:
            posts = [client.post("/api/predict", files={"files": (name, content)}) for name in names]
            return await asyncio.gather(*posts)

    answers = [one.json()["files"][0] for one in asyncio.run(send_all())]
    assert computed == names == [one["file"] for one in answers]
    assert all(one["labels"] == answers[0]["labels"] for one in answers)


def test_the_number_of_waiting_requests_is_bounded(monkeypatch):
    monkeypatch.setattr(worker_module, "MAX_WAITING", 2)

    async def too_many():
        worker = Worker()
        first, second = (asyncio.ensure_future(worker.run(lambda n=n: n)) for n in range(2))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await worker.run(lambda: 2)
        assert [await first, await second, await worker.run(lambda: 3), worker.waiting] == [0, 1, 3, 0]
        worker.close()

    asyncio.run(too_many())


HOSTS = {
    "127.0.0.1:8000": True, "127.0.0.1": True, "localhost:9": True, "LocalHost.": True, "[::1]:8000": True,
    "192.168.1.5": True, "": False, "evil.example": False, "127.0.0.1.evil.example:8000": False,
    "localhost.evil.example": False, "[::1].evil.example": False, "[evil]:80": False,
}  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_a_foreign_host_name_that_resolves_to_the_server_is_refused(client, host):
    assert OPEN.knows_host(host) == HOSTS[host]
    assert Access.of("0.0.0.0", "").knows_host(socket.gethostname().upper())
    assert Access.of("box.example", "").knows_host("box.example:80")
    assert Access.of("0.0.0.0", "password").knows_host(host)  # a page under that name lacks the password
    assert client.get("/", headers={"host": host}).status_code == (200 if HOSTS[host] else 403)


FOREIGN = [{"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"}]
FOREIGN += [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}]


@pytest.mark.parametrize("headers", FOREIGN)
def test_requests_from_another_origin_are_refused_before_they_are_read(client, headers, classifier, monkeypatch):
    monkeypatch.setattr(classifier, "answer", pytest.fail)
    answer = client.post("/api/predict", files=[("files", ("a", b"a"))], headers=headers)
    assert answer.status_code == 403 and "another page" in answer.json()["error"]


def test_requests_from_the_page_itself_are_answered(client):
    own = {"origin": HERE, "sec-fetch-site": "same-origin"}
    assert client.post("/api/predict", files=[("files", ("a", b"a"))], headers=own).status_code == 200


def test_a_password_is_required(classifier, images):
    with TestClient(make_app(classifier, Access.of("0.0.0.0", "pässword"), pytest.fail), base_url=HERE) as client:
        for path in ("/", "/api/health", "/api/openapi.json", "/none"):
            refused = client.get(path)
            assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic ")
            assert "multi" not in refused.text and "tiny" not in refused.text
        for given in ("password", "pässword ", "", "x" * 999):
            wrong = base64.b64encode(f"me:{given}".encode()).decode()
            assert client.get("/", headers={"authorization": f"Basic {wrong}"}).status_code == 401
        right = base64.b64encode("me:pässword".encode()).decode()
        assert client.get("/", headers={"authorization": f"Bearer {right}"}).status_code == 401
        assert client.get("/", headers={"authorization": "Basic ü".encode()}).status_code == 401
        assert client.get("/", headers={"authorization": f"basic {right}"}).status_code == 200
        assert client.get("/api/openapi.json", headers={"authorization": f"Basic {right}"}).json()["security"]


HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def test_every_answer_has_the_headers(client):
    answers = [client.get("/"), client.get("/none"), client.put("/"), client.get("/", headers={"host": "x"})]
    answers += [client.get("/api/openapi.json"), client.post("/api/predict")]
    assert [answer.status_code for answer in answers] == [200, 404, 405, 403, 200, 415]
    for answer in answers:
        assert HEADERS.items() <= dict(answer.headers).items()
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "server" not in answer.headers


def test_the_page_needs_no_other_file_and_has_the_measured_performance(client, tiny_run):
    page = client.get("/").text
    assert not re.search(r"(?:src|href)=\"(?!data:|api/|#)", page) and "http" not in page.replace("http-equiv", "")
    assert "not for diagnosis" in page
    for name in ("accuracy", "auroc_macro"):
        found = tiny_run.metrics["test"]
        assert f"{found['overall'][name]:.3f}" in page
        assert f"{found['intervals']['overall'][name]['low']:.3f} to " in page


def test_file_names_and_labels_are_shown_as_text(tiny_run, tmp_path):
    hostile = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "<b>x"))
    with TestClient(
        make_app(Classifier(hostile, None, "cpu", pytest.fail), OPEN, pytest.fail), base_url=HERE
    ) as client:
        page = client.get("/").text
        assert "<b>x" not in page and "&lt;b&gt;x" in page
        name = 'a\u202e"\r\n<b>' + "x" * 500
        found = client.post("/api/predict", files=[("files", (name, b"a"))]).json()["files"][0]
    assert "\\u202e" in found["file"] and "left out" in found["file"] and len(found["file"]) < 300


def test_after_an_internal_error_the_next_request_is_answered(classifier, monkeypatch):
    notes = []

    def fail(*args, **options):
        raise ZeroDivisionError("by zero")

    with monkeypatch.context() as patch:
        patch.setattr(classifier, "answer", fail)
        with TestClient(make_app(classifier, OPEN, notes.append), HERE, raise_server_exceptions=False) as client:
            answer = client.post("/api/predict", files=[("files", ("a", b"a"))])
            assert answer.status_code == 500 and "bug in xrayfast" in answer.json()["error"]
            patch.undo()
            assert client.post("/api/predict", files=[("files", ("a", b"a"))]).status_code == 200
    assert notes == [answer.json()["error"]]


def test_a_failing_network_is_a_named_error(classifier, client, monkeypatch):
    def fail(*args, **options):
        raise RunError("model.onnx: its graph fails")

    monkeypatch.setattr(classifier, "answer", fail)
    answer = client.post("/api/predict", files=[("files", ("a", b"a"))])
    assert (answer.status_code, answer.json()) == (500, {"error": "model.onnx: its graph fails"})


def test_a_network_without_a_feature_map_has_no_saliency(classifier, client, monkeypatch):
    monkeypatch.setattr(classifier, "no_saliency", "There is none.")
    answer = client.post("/api/predict?saliency=true", files=[("files", ("a", b"a"))])
    assert answer.status_code == 400 and "There is none." in answer.json()["error"]
    with TestClient(make_app(classifier, OPEN, pytest.fail), base_url=HERE) as other:
        page = other.get("/").text
    assert "There is none." in page and 'role="switch"' not in page


def test_a_socket_that_cannot_be_opened_is_named():
    with open_socket("0.0.0.0", 0) as everywhere:
        assert address_of(everywhere) == f"http://{socket.gethostname()}:{everywhere.getsockname()[1]}/"
    with open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address_of(taken) == f"http://127.0.0.1:{port}/"
        with pytest.raises(ConfigError, match=f"port is {port}, which another program already uses"):
            open_socket("127.0.0.1", port)
    for host in ("203.0.113.7", "no.such.host.invalid", "x" * 99, "a\0b"):
        with pytest.raises(ConfigError, match="expected an address of this machine"):
            open_socket(host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"])
def test_loopback_hosts_are_recognized(host):
    assert is_loopback(host)
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "localhost.example", "")))


@pytest.mark.parametrize(
    ("words", "password", "text"),
    [
        (["--host", "0.0.0.0"], None, "Use --password"),
        (["--host", "::"], None, "--no-password"),
        (["--password"], None, "found none in XRAYFAST_PASSWORD"),
        (["--password"], "short", "found 5 characters"),
        (["--port", "99999"], None, "--port"),
        (["--abstain-below", "2"], None, "--abstain-below"),
    ],
)
def test_wrong_options_are_named(tiny_run, monkeypatch, words, password, text):
    monkeypatch.delenv("XRAYFAST_PASSWORD", raising=False)
    if password:
        monkeypatch.setenv("XRAYFAST_PASSWORD", password)
    done = CliRunner().invoke(command, ["serve", str(tiny_run.path), *words])
    assert done.exit_code == 2 and text in " ".join(done.output.split()), done.output


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    done = CliRunner().invoke(command, ["serve"])
    assert done.exit_code == 2 and "pip install 'xrayfast[serve]'" in " ".join(done.output.split())


def test_the_description_lists_the_fields_of_the_answer(client, images):
    described = client.get("/api/openapi.json").json()
    answered = set(described["paths"]["/api/predict"]["post"]["responses"])
    assert answered == {"200", "400", "401", "403", "408", "413", "415", "500", "503"}
    jsonschema = pytest.importorskip("jsonschema")
    schema = {"$ref": "#/components/schemas/Answer", "components": described["components"]}
    answer = client.post("/api/predict?image=true&saliency=true", files=sent(images)).json()
    jsonschema.Draft202012Validator(schema).validate(answer)
    assert json.dumps(answer)
