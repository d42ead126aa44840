"""What notebook cells show while the package works, in a real kernel."""

import re

import pytest

from tests.conftest import SMALL
from tests.notebooks.conftest import QUICKLY
from xrayfast.errors import plural
from xrayfast.runs.run import Run


@pytest.fixture(scope="module")
def ready(kernel, data_dir):
    """The kernel with a data set, settings and a run."""
    setup = f"import xrayfast as xf\nsmall = {SMALL!r}\ndata = xf.open_data({str(data_dir)!r}, test_fraction=0.2)"
    assert not kernel.run(QUICKLY + setup)
    outputs = kernel.run("run = xf.fit(data, name='one', unfreeze=True, epochs=2, **small)")
    return kernel, outputs


def html_of(outputs):
    """Return the HTML of a cell with a single output."""
    assert len(outputs) == 1, outputs
    output = outputs[0]
    assert output.output_type == "display_data", output
    assert {"text/html", "text/plain"} == set(output.data)
    assert "<script" not in output.data["text/html"] and "<Figure" not in str(output.data)
    return output.data["text/html"]


def test_fit_shows_one_table_of_epochs_with_a_plot_and_notes(ready):
    kernel, outputs = ready
    html, history = html_of(outputs), Run(kernel.folder / "runs/one").history
    rows = re.findall(r"<tr.*?</tr>", html)[1:]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    assert [row[0].removesuffix(" (best)") for row in cells] == ["1", "2", "3"] == [f"{e}" for e in history["epoch"]]
    assert [row[1] for row in cells] == ["head", "all", "all"]
    for row, (_, epoch) in zip(cells, history.iterrows(), strict=True):
        assert row[2:5] == [f"{epoch[name]:.3f}" for name in ("train_loss", "valid_loss", "valid_accuracy")]
        assert float(row[-2]) > 0 and row[-1].endswith(" s")  # images per second, and time
    assert html.count("<svg") == 2 and "polyline" in html
    assert "<progress" not in html and "computing metrics" in html  # the bar is gone
    assert "too rare to evaluate in valid" in html  # a note


def test_every_long_running_function_shows_progress(ready, data_dir):
    kernel = ready[0]
    folder, run = str(data_dir / "normal"), "xf.Run('runs/one')"
    for call, stage in {
        f"xf.predict({run}, {folder!r}, device='cpu')": "predicting",
        f"xf.evaluate({run}, {str(data_dir)!r}, device='cpu', resamples=20)": "computing metrics",
        "xf.check(data, size=72)": "comparing",  # not the size of `fit`, whose comparison is kept
        "xf.find_lr(data, steps=20, **small)": "range test",
        f"xf.interpret({run}, top=2)": "writing the report",
    }.items():
        assert f"{stage}: " in html_of(kernel.run(f"found = {call}")), call
    assert not kernel.run("found = xf.check(data, size=64, progress=False)")


def test_notes_are_in_the_display_and_not_python_warnings(ready, data_dir):
    kernel = ready[0]
    call = f"found = xf.predict('runs/one', {str(data_dir)!r}, device='cpu', tta=True"
    assert "tta" in html_of(kernel.run(f"{call})")).split("Notes")[1]
    (warned,) = kernel.run(f"{call}, progress=False)")
    assert warned.name == "stderr"


def test_an_error_shows_only_its_message(ready):
    (error,) = ready[0].run("xf.predict('runs/one', 'nowhere.png')")
    assert error.traceback == ["DataError: nowhere.png: no such file or folder."]
    (error,) = ready[0].run("xf.fit(data, name='one')")
    assert error.traceback[0].endswith("Choose another name=.")


def test_interrupting_stops_after_the_batch_and_says_how_to_resume(ready):
    kernel = ready[0]
    history = kernel.folder / "runs/stopped/history.csv"
    call = "run = xf.fit(data, name='stopped', epochs=400, **small)"
    shown, error = kernel.interrupt(call, history.exists)
    assert "stopped after" in html_of([shown])
    assert error.ename == "Interrupted"
    (message,) = error.traceback
    run = Run(history.parent)
    done = len(run.history)
    said = rf"Stopped after {plural(done, 'finished epoch')}( and .*)?\. Resume with: xf\.resume\('runs/stopped'\)$"
    assert re.search(said, message)
    run.write_config(run.config.updated({"epochs": done + 1}))
    html = html_of(kernel.run("run = " + message.rpartition("with: ")[2]))
    assert len(re.findall("<tr", html)) == 2  # the header and the last epoch
    assert len(Run(history.parent).history) == done + 1


def test_interrupting_before_training_names_the_stage(ready):
    kernel = ready[0]
    kernel.run(
        "import time, xrayfast.workflows.predict as predicting\n"
        "def wait(*arguments):\n    open('waiting', 'w').close()\n    time.sleep(100)\n"
        "predicting._decide, decide = wait, predicting._decide"
    )
    call = "xf.predict('runs/one', data.table['path'].tolist()[:3], device='cpu')"
    shown, error = kernel.interrupt(call, (kernel.folder / "waiting").exists)
    kernel.run("predicting._decide = decide")
    assert "stopped after" in html_of([shown])
    assert error.traceback == ["Interrupted: Stopped (predicting: 0 of 3). Run the cell again to start over."]
