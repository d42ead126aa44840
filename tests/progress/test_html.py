"""The numbers in the output of a notebook cell, and its escaping."""

import re

from xrayfast.learning.training.phases import Phase
from xrayfast.progress import html, notebook
from xrayfast.progress.html import EpochTable, render_page
from xrayfast.progress.notebook import NotebookReporter


def row(epoch, **values):
    return {"epoch": epoch, "phase": "head", "train_loss": 1.0, "valid_loss": 2.0, "seconds": 10.0} | values


def cells(text):
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line) for line in re.findall(r"<tr.*?</tr>", text)]


def test_the_table_has_the_history_and_the_rate():
    table = EpochTable()
    table.add(row(1, valid_accuracy=0.5, valid_balanced_accuracy=0.1), True, 12.34)
    table.add(
        row(2, valid_accuracy=None, valid_train_accuracy_of_mine=0.125, train_loss=0.75, seconds=100.0), False, None
    )
    assert table.html.count(">train_accuracy_of_mine</text>") == 1  # once in the plot
    assert cells(table.html) == [
        ["epoch", "phase", "train loss", "valid loss", "accuracy", "train_accuracy_of_mine", "images/s", "time"],
        ["1 (best)", "head", "1.000", "2.000", "0.500", "–", "12.3", "10 s"],
        ["2", "head", "0.750", "2.000", "–", "0.125", "–", "2 min"],
    ]


def test_the_plot_is_drawn_to_scale(monkeypatch):
    for name, value in {"WIDTH": 118, "HEIGHT": 122, "LEFT": 0, "TOP": 10, "BOTTOM": 0}.items():
        monkeypatch.setattr(html, name, value)
    table = EpochTable()
    losses = [(1, 3.0, 1.0), (2, 2.0, float("nan")), (3, 1.0, 2.0)]
    for epoch, train, valid in losses:
        table.add(row(epoch, train_loss=train, valid_loss=valid), epoch == 3, 1.0)
    # Epochs 1 to 3 are at x = 6 to 104, losses 1 to 3 at y = 116 to 16; NaN is left out.
    assert re.findall(r'polyline points="(.*?)"', table.html) == [
        "6.0,16.0 55.0,66.0 104.0,116.0",
        "6.0,116.0 104.0,66.0",
    ]
    assert "M104.0 10V122" in table.html  # the best epoch
    assert ">3.000</text>" in table.html and ">1.000</text>" in table.html


def test_long_runs_show_the_last_epochs_and_the_best():
    table = EpochTable()
    for epoch in range(1, 61):
        table.add(row(epoch), epoch == 4, 1.0)
    assert [line[0] for line in cells(table.html)[1:]] == ["4 (best)", *map(str, range(11, 61))]
    assert "9 earlier epochs are in history.csv" in table.html


def test_text_from_files_is_escaped():
    page = render_page("<b>", html.Bar("<i>", 1, 2, "&"), EpochTable(), ["<script>x</script>\x1b[31m"])
    assert "&lt;b&gt;" in page and "&lt;i&gt;" in page and ">&amp;<" in page
    assert "<script" not in page and "&lt;script&gt;x&lt;/script&gt;\\x1b[31m" in page
    table = EpochTable()
    table.add(row(1, phase="<u>", **{"valid_<s>": 1.0}), True, 1.0)
    assert "<u>" not in table.html and "<s>" not in table.html


class Screen:
    """Replaces IPython's display and the clock."""

    def __init__(self, monkeypatch):
        import IPython.display

        self.now, self.pages = 0.0, []
        monkeypatch.setattr(IPython.display, "display", self.display)
        monkeypatch.setattr(notebook.time, "monotonic", lambda: self.now)

    def display(self, bundle, raw, display_id):
        assert raw and display_id and not self.pages
        self.pages.append(bundle["text/html"])
        return self

    def update(self, bundle, raw):
        assert raw
        self.pages.append(bundle["text/html"])


def batches(reporter, screen, epoch, split, total, seconds):
    """Report batches of 8 images as training does, each after `seconds`."""
    for done in range(1, total + 1):
        screen.now += seconds
        reporter.batch(
            split=split, done=done, total=total, epoch=epoch, loss=0.5, images=8 * done, seconds=seconds * done
        )


def test_two_updates_per_second_and_nothing_before_there_is_something(monkeypatch):
    screen = Screen(monkeypatch)
    reporter = NotebookReporter()
    assert not screen.pages
    reporter.phase(Phase("head", 2, 1, (1e-3, 1e-3)))
    batches(reporter, screen, 1, "train", 1000, 0.01)
    assert len(screen.pages) in (20, 21)


def test_the_bar_shows_the_remaining_time(monkeypatch):
    screen = Screen(monkeypatch)
    reporter = NotebookReporter()
    reporter.phase(Phase("head", 3, 1, (1e-3, 1e-3)))
    batches(reporter, screen, 1, "train", 4, 2.0)
    # The other two epochs take 8 s like this one.
    assert "epoch 1 of 3 · train" in screen.pages[-1] and "4.0 images/s" in screen.pages[-1]
    assert "16 s left in this phase" in screen.pages[-1]
    batches(reporter, screen, 1, "valid", 2, 1.0)
    assert "20 s left in this phase" in screen.pages[-1]  # with 2 s of validation per epoch
    reporter.epoch(row(1, seconds=12.0), True)
    assert cells(screen.pages[-1])[1][-2] == "4.0" and "<progress" not in screen.pages[-1]
    batches(reporter, screen, 2, "train", 1, 3.0)
    assert "12 s left in this phase" in screen.pages[-1]  # epoch 3 takes as long as epoch 1
    reporter.end("")
    assert "done after 13 s" in screen.pages[-1]


def test_a_resumed_run_shows_the_time_per_epoch(monkeypatch):
    screen = Screen(monkeypatch)
    reporter = NotebookReporter()
    reporter.phase(Phase("head", 3, 1, (1e-3, 1e-3)))
    batches(reporter, screen, 2, "train", 1, 2.0)
    assert "epoch 2 · train" in screen.pages[-1] and "0 s left in this epoch" in screen.pages[-1]


def test_stages_are_shown_and_stay(monkeypatch):
    screen = Screen(monkeypatch)
    reporter = NotebookReporter()
    for done in (0, 1, 1200):
        screen.now += 1.0
        reporter.preparing("decoding", done, 1200)
    assert "0 of 1,200 images" in screen.pages[0] and "1 of 1,200 images" in screen.pages[1]
    assert "<progress" not in screen.pages[2] and ">decoding: 1,200 images<" in screen.pages[2]
    reporter.preparing("comparing", 6, 1200)
    assert reporter.where() == " (comparing: 6 of 1,200)"
    reporter.end("stopped")
    assert ">decoding: 1,200 images · comparing: 1,200 images · stopped after 3 s<" in screen.pages[-1]
