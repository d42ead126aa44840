"""The command in its own process, with a real browser, ended by signals."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

import xrayfast as xf
from tests.data.images.dicom_files import dicom_bytes
from tests.serving.browser import CHROMIUM, DRIVER, browsing
from xrayfast.files.csv_tables import format_csv
from xrayfast.serving.access import Access
from xrayfast.serving.app import make_app
from xrayfast.serving.classifier import Classifier

pytestmark = pytest.mark.slow

LARGE = 10_000
"""The side of an image of 100 megapixels."""


@pytest.fixture(scope="module")
def served_run(data_dir, tmp_path_factory):
    """A run with a backbone that is also defined in other processes."""
    from tests.conftest import TINY

    data = xf.open_data(data_dir, test_fraction=0.2)
    return xf.fit(data, runs=tmp_path_factory.mktemp("runs"), name="served", epochs=1, **TINY)


@pytest.fixture(scope="module")
def exported(served_run, tmp_path_factory):
    return xf.export(served_run, tmp_path_factory.mktemp("exported") / "model.onnx", progress=False).path


@pytest.fixture(scope="module")
def images(data_dir, tmp_path_factory):
    """A PNG, a DICOM, a text named .png, a PNG of 100 megapixels, and one with HTML in its name."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.asarray(Image.open(next(data_dir.glob("normal/*.png"))))
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "b.dcm").write_bytes(dicom_bytes(pixels.astype(np.uint16) * 16, bits=12))
    (folder / "c.png").write_text("no image")
    Image.fromarray(pixels).resize((LARGE, LARGE)).save(folder / "d.png", compress_level=1)
    shutil.copy(folder / "a.png", folder / "<img src=x onerror=alert(1)>.png")
    return folder


@contextlib.contextmanager
def serving(source, *words, **environment):
    """Yield the process and its address once it answers."""
    line = [
        sys.executable,
        "-m",
        "xrayfast",
        "serve",
        str(getattr(source, "path", source)),
        "--port",
        "0",
        "--json",
        *words,
    ]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(line, env=os.environ | environment, **pipes)
    try:
        first = process.stdout.readline()
        assert first, process.communicate()
        yield process, json.loads(first)["url"]
    finally:
        process.kill()
        process.communicate()


def post(url, paths, query=""):
    boundary, body = "xrayfastboundary", io.BytesIO()
    for path in paths:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'
        body.write(head.encode() + path.read_bytes() + b"\r\n")
    body.write(f"--{boundary}--\r\n".encode())
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(f"{url}api/predict{query}", body.getvalue(), headers)
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_server(exported, images, number, code):
    with serving(exported) as (process, url):
        assert post(url, [images / "a.png"])["files"][0]["labels"]
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out) == (code, "")
        assert err.splitlines()[-1].startswith("Stopped") and "Traceback" not in err


def test_a_signal_ends_the_server_during_a_request(served_run, images):
    with serving(served_run, "--device", "cpu") as (process, url), ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(post, url, [images / "d.png"])
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 143 and "Traceback" not in err


def test_an_exported_model_is_served_without_torch(exported, images):
    script = (
        "import sys\n"
        "from starlette.testclient import TestClient\n"
        "from xrayfast.serving.access import Access\n"
        "from xrayfast.serving.app import make_app\n"
        "from xrayfast.serving.classifier import Classifier\n"
        f"app = make_app(Classifier({str(exported)!r}, None, 'auto', print), Access.of('127.0.0.1', ''), print)\n"
        "client = TestClient(app, base_url='http://127.0.0.1')\n"
        "assert 'Grad-CAM needs the run' in client.get('/').text\n"
        f"content = open({str(images / 'b.dcm')!r}, 'rb').read()\n"
        "assert client.post('/api/predict', files={'files': ('b.dcm', content)}).json()['files'][0]['labels']\n"
        "print([m for m in ('torch', 'torchvision', 'fastai', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_no_file_is_left_and_memory_is_released(served_run, images, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    with serving(served_run, "--device", "cpu", TMPDIR=str(folder)) as (process, url):
        other = psutil.Process(process.pid)
        post(url, [images / "a.png", images / "b.dcm"], "?image=true&saliency=true")
        before, opened = other.memory_info().rss, other.num_fds()
        for _ in range(4):
            found = post(url, [images / "d.png", images / "b.dcm"], "?image=true&saliency=true")["files"]
            assert not any(one["error"] for one in found)
        assert other.memory_info().rss - before < 2**25, "32 MB; the decoded image alone has 100"
        assert not list(folder.iterdir())
        assert other.num_fds() <= opened + 2
        assert not [one.path for one in other.open_files() if "deleted" in one.path]


def test_twenty_connections_at_once_are_answered(exported, images):
    with serving(exported) as (_, url), ThreadPoolExecutor(20) as pool:
        answers = [*pool.map(lambda path: post(url, [path]), [images / "a.png", images / "c.png"] * 10)]
    assert [bool(answer["files"][0]["error"]) for answer in answers] == [False, True] * 10


def test_a_password_from_the_environment(exported):
    with serving(exported, "--host", "0.0.0.0", "--password", XRAYFAST_PASSWORD="long enough") as (process, url):
        assert "long enough" not in " ".join(psutil.Process(process.pid).cmdline())
        address = f"http://127.0.0.1:{url.rpartition(':')[2]}"  # its own address has the host name
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(address, timeout=300)
        manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        manager.add_password(None, address, "any", "long enough")
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
        assert opener.open(address, timeout=300).status == 200


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium with its driver on the PATH")
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        found.call("POST", f"{found.session}/timeouts", script=60_000)
        yield found


STATUS = "document.getElementById('status').textContent"
ANSWERED = f"return /predicted|Predicted|failed|can't/.test({STATUS}) && {STATUS}"
DROP = (
    "const files = new DataTransfer(); for (const name of arguments[0]) files.items.add(new File(['text'], name));"
    "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: files, bubbles: true}))"
)
MANY_LABELS = (
    "const image = document.querySelector('#list img').src, name = 'Enlarged Cardiomediastinum ';"
    "const label = (_, i) => ({label: name.repeat(1 + i % 3), probability: i / 13, threshold: 0.5, spread: 0.01,"
    " predicted: i > 6, abstained: i == 6});"
    "list.append(card({file: 'a_long_name_'.repeat(16), image, notes: [], labels: Array.from({length: 14}, label)}))"
)
WIDE = "return document.documentElement.scrollWidth > arguments[0]"  # innerWidth grows with overflow on a phone


def test_a_person_tries_the_page(browser, served_run, images, tmp_path, monkeypatch):
    names = ["a.png", "b.dcm", "c.png", "d.png", "<img src=x onerror=alert(1)>.png"]
    with serving(served_run, "--device", "cpu") as (process, url):
        browser.open(url)
        browser.run(
            "self.refused = []; addEventListener('securitypolicyviolation', one => refused.push(one.blockedURI))"
        )
        browser.type("#files", "\n".join(str(images / name) for name in names))
        assert browser.wait_for(ANSWERED).startswith("4 files predicted, 1 file failed. Last: <img")
        titles = browser.run("return [...document.querySelectorAll('#list h3')].map(one => one.textContent)")
        assert titles == names  # in order, and shown as text
        reason = browser.run("return document.querySelector('#list .reason').textContent")
        assert reason.startswith("c.png: found no image that can be read; expected DICOM, PNG")
        answer = post(url, [images / "a.png"], "?image=true&saliency=true")["files"][0]
        shown = browser.run(
            "return [...document.querySelector('#list li').querySelectorAll('tbody tr')].map(row =>"
            " [row.cells[0].textContent, row.cells[1].textContent, row.cells[4].textContent])"
        )
        assert shown == [
            [one["label"], f"{one['probability']:.3f}", "yes" if one["predicted"] else "no"] for one in answer["labels"]
        ]
        bars = browser.run(
            "return [...document.querySelectorAll('#list li:first-child .fill')].map(b => b.style.width)"
        )
        assert [float(bar.rstrip("%")) for bar in bars] == pytest.approx(
            [100 * one["probability"] for one in answer["labels"]], abs=1e-3
        )
        # Toggle the switch by keyboard: it is the first tab stop after the files.
        source = "return document.querySelector('#list img').src"
        assert browser.run(source) == answer["image"]
        browser.run("document.getElementById('files').focus()")
        browser.press("\ue004", " ")
        assert browser.run("return document.activeElement.id + document.activeElement.checked") == "overlaytrue"
        assert browser.run(source) == answer["saliency"]["image"]
        assert browser.run("return document.querySelector('#list img').alt").endswith(
            f"with Grad-CAM of {answer['saliency']['label']}"
        )
        stops = []
        for _ in range(2):
            browser.press("\ue004")
            stops.append(browser.run("return document.activeElement.id"))
        assert stops == ["csv", "clear"]
        # The CSV equals that of predict.
        monkeypatch.chdir(images)
        each = [xf.predict(served_run, name, device="cpu", note=lambda text: None) for name in names]
        assert download(browser, tmp_path) == format_csv(pd.concat(each), "%.9g")
        browser.run(MANY_LABELS)
        for width in (1440, 768, 390):
            browser.size(width, 844)
            for dark in (False, True):
                browser.dark(dark)
                assert not browser.run(WIDE, width)
                assert low_contrasts(browser) == []
        # Removing all by keyboard returns to the start.
        browser.run("document.getElementById('clear').focus()")
        browser.press("\ue007")
        left = browser.run("return [document.querySelectorAll('#list > li').length, document.activeElement.id]")
        assert left == [0, "files"]
        # Two files are dropped, the server ends, and a third file is dropped: the page explains the missing answer.
        browser.run(DROP, ["x.txt", "y.txt"])
        assert browser.wait_for(ANSWERED).startswith("0 files predicted, 2 files failed.")
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        browser.run(DROP, ["z.txt"])
        assert "the server may have stopped" in browser.wait_for(f"return {STATUS}.includes('z.txt: ') && {STATUS}")
        assert browser.run("return refused") == []


def download(browser, folder):
    browser.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    browser.run("document.getElementById('csv').click()")
    deadline = time.monotonic() + 120
    while not (folder / "predictions.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return (folder / "predictions.csv").read_text()


def low_contrasts(browser):
    """Return texts whose contrast with their background is below 4.5 (WCAG 2.2, 1.4.3)."""
    return browser.run(Path(__file__).with_name("contrast.js").read_text())


def test_every_control_has_a_name_and_the_page_is_ordered(browser, exported, images):
    with serving(exported) as (_, url):
        browser.open(url)
        browser.type("#files", str(images / "a.png"))
        assert browser.wait_for(ANSWERED).startswith("a.png – Predicted: ")
        tree = browser.devtools("Accessibility.getFullAXTree")["nodes"]
        nodes = [(one["role"]["value"], one.get("name", {}).get("value", "")) for one in tree if not one.get("ignored")]
        controls = {"button", "link", "switch", "checkbox", "textbox", "image", "region", "table", "heading"}
        assert not [role for role, name in nodes if role in controls and not name]
        assert "status" in [role for role, _ in nodes]
        assert [name for _, name in nodes if name.startswith("Choose images, or drop them here")]
        assert ("image", "a.png as the network sees it") in nodes
        assert not [name for role, name in nodes if role == "switch"]  # an ONNX file has no Grad-CAM
        levels = browser.run("return [...document.querySelectorAll('h1, h2, h3')].map(one => Number(one.tagName[1]))")
        assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))
        assert browser.run("return document.documentElement.lang") == "en"


def test_the_endpoint_agrees_with_its_description(served_run):
    """schemathesis sends valid and invalid requests; each answer must agree with the description."""
    schemathesis = pytest.importorskip("schemathesis")
    asgi = pytest.importorskip("schemathesis.python.asgi")
    from hypothesis import HealthCheck, given, settings

    app = make_app(
        Classifier(served_run, None, "cpu", pytest.fail),
        Access(hosts=frozenset({asgi.HOST})),
        pytest.fail,
    )
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app)
    statuses = []
    for operation in (found.ok() for found in schema.get_all_operations()):
        modes = list(schemathesis.GenerationMode) if operation.body else [schemathesis.GenerationMode.POSITIVE]
        for mode in modes:

            @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(operation.as_strategy(generation_mode=mode))
            def check(case):
                statuses.append(case.call_and_validate().status_code)

            check()
    assert {200, 400} <= set(statuses)
