"""The benchmark suite: its file of results, page, ratios and measurement of memory; nothing is trained here."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "examples"))

from benchmarks import gpu, measure, page, scenarios, targets  # noqa: E402
from benchmarks.contestants import xrayfast_fit  # noqa: E402
from benchmarks.contestants.common import Orders  # noqa: E402
from benchmarks.data import ImageSet, make  # noqa: E402
from benchmarks.machine import machine  # noqa: E402
from benchmarks.memory import PeakMemory, descendants, pss_mb  # noqa: E402
from benchmarks.results import Job, Results  # noqa: E402

GIVEN = scenarios.Options(images=60, rounds=2)
ABOUT = {"machine": {"CPU": "a CPU", "GPU": "none"}, "versions": {"torch": "2"}, "commit": "abc", "when": "2026-01-01"}
linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from /proc")


def fit_row(seconds, accuracy=0.8, epochs=("head", "all", "all"), peak=1000.0):
    rows = [{"phase": phase, "seconds": seconds / 10, "accuracy": accuracy, "auroc_macro": accuracy + 0.1,
             "train_loss": 0.5, "valid_loss": 0.6} for phase in epochs]  # fmt: skip
    result = {"epochs": rows, "train_images": 48, "valid_images": 12}
    return {"seconds": seconds, "cpu_seconds": 2 * seconds, "peak_mb": peak, "result": result, **ABOUT}


@pytest.fixture
def results(tmp_path):
    """Results of two rounds of frozen10: fastai took 100 and 120 s, xrayfast 10 and 8 s."""
    found = Results(tmp_path / "results.jsonl")
    found.begin("frozen10", asdict(GIVEN), "python examples/benchmarks --rounds 2")
    seconds = {("fastai", 0): 100, ("fastai", 1): 120, ("xrayfast", 0): 10, ("xrayfast", 1): 8}
    for job in scenarios.frozen10(GIVEN):
        peak = 2000.0 if job.contestant == "fastai" else 1500.0
        epochs = ("head",) * 10
        took = seconds.get((job.contestant, job.seed), 40)
        found.add(job, fit_row(took, accuracy=0.8 + 0.02 * job.seed, epochs=epochs, peak=peak))
    return found


def target(key):
    return next(target for target in targets.TARGETS if target.key == key)


def test_a_ratio_is_taken_round_by_round(results):
    outcome = target("frozen10").measure(results, GIVEN)
    assert outcome.values == [10.0, 15.0]
    assert outcome.median == 12.5
    assert target("frozen10").met(outcome)
    assert target("memory").measure(results, GIVEN).values == [0.75, 0.75]
    assert target("unfrozen").measure(results, GIVEN) is None


def test_a_target_that_is_not_reached_is_shown(results):
    slow = next(job for job in scenarios.frozen10(GIVEN) if job.contestant == "xrayfast" and job.seed == 0)
    results.add(slow, fit_row(50.0, epochs=("head",) * 10))
    outcome = target("frozen10").measure(results, GIVEN)
    assert outcome.values == [2.0, 15.0]
    assert not target("frozen10").met(outcome)
    assert "| 8.50 (2.00 to 15.00, n = 2) | at least 10 | **no** | frozen10 |" in page.page(results)


def test_the_page_holds_targets_machine_remarks_and_details(results, monkeypatch):
    monkeypatch.setitem(page.EXPLANATIONS, "frozen10", "Because of this.")
    text = page.page(results)
    assert "| 12.50 (10.00 to 15.00, n = 2) | at least 10 | yes | frozen10 |" in text
    assert "| not measured | at least 1.4 | – | unfrozen |" in text
    assert "CPU a CPU, GPU none" in text
    assert "`python examples/benchmarks --rounds 2`" in text
    assert "- **frozen10**: Because of this." in text
    row = next(line for line in text.splitlines() if line.startswith("| fastai "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["fastai", "2", "110.0 (100.0 to 120.0)"]
    assert cells[6] == "0.810 (0.800 to 0.820)"
    assert cells[8] == "12.22"  # 110 s over 9 s
    assert cells[9] == "2.75"  # for the limit, ten epochs of 4 s, not the 40 s of its process
    assert cells[10] == "2.75"
    assert cells[11] == "2026-01-01, abc"
    assert str(ROOT) not in text


def test_the_page_says_that_nothing_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "gpu.py"))
    text = page.page(Results(tmp_path / "none.jsonl"))
    assert "Nothing is measured yet." in text
    assert text.count("| not measured") == len(targets.TARGETS) + len(gpu.rows(scenarios.Options()))


def test_the_page_uses_the_last_options_of_a_scenario(results):
    results.begin("frozen10", asdict(scenarios.Options(images=61)), "python examples/benchmarks --images 61")
    assert "12.50" not in page.page(results)


def test_results_survive_a_kill(results):
    jobs = scenarios.frozen10(GIVEN)
    again = Results(results.path)
    assert again.of(jobs) == results.of(jobs)
    assert len(again.of(jobs)) == len(jobs)
    whole = results.path.read_text()
    results.path.write_text(whole[:-30])
    cut = Results(results.path)
    assert len(cut.of(jobs)) == len(jobs) - 1
    missing = next(job for job in jobs if cut.get(job) is None)
    cut.add(missing, fit_row(1.0))
    assert [json.loads(line) for line in results.path.read_text().splitlines()]
    assert len(Results(results.path).of(jobs)) == len(jobs)


def test_benchmarks_md_and_its_chart_are_what_the_results_say():
    measured = Results(ROOT / "examples" / "benchmarks" / "results.jsonl")
    assert (ROOT / "BENCHMARKS.md").read_text(encoding="utf-8") == page.page(measured), (
        "python examples/benchmarks --write-only"
    )
    chart = (ROOT / "examples" / "images" / "benchmarks.svg").read_text(encoding="utf-8")
    assert chart == page.chart(measured), "python examples/benchmarks --write-only"
    assert chart.count("<rect") == 3 + 2 * len(page.CHARTED)  # background, legend, and two bars per scenario


def test_the_first_ten_rows_have_a_table_of_their_own(results):
    first, rest = page.page(results).split("## Further rows")
    assert page.FIRST == 10
    assert all(target.what in first for target in targets.TARGETS[:10])
    assert not any(f"| {target.what} |" in first for target in targets.TARGETS[10:])
    assert all(target.what in rest for target in targets.TARGETS[10:])


def test_results_of_scenarios_that_were_renamed_are_found(tmp_path):
    file = tmp_path / "results.jsonl"
    command = "python examples/benchmarks --only thawed --only store --only help"
    file.write_text(json.dumps({"scenario": "thawed", "options": {}, "command": command}) + "\n")
    begun = Results(file).begun
    assert begun["unfrozen"]["command"] == "python examples/benchmarks --only unfrozen --only cache --only help"


def test_results_with_the_older_names_of_settings_are_found(tmp_path):
    fit = {"films": ["films", 30, 64, 0.2], "arch": "resnet18", "thaw": "last block"}
    row = {"contestant": "xrayfast", "task": "predict", "settings": {**fit, "model": fit}, "seed": 0, "seconds": 1.0}
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n")
    now = {"images": ["originals", 30, 64, 0.2], "arch": "resnet18", "unfreeze": "last block"}
    found = Results(tmp_path / "results.jsonl").get(Job("xrayfast", "predict", {**now, "model": now}))
    assert found["seconds"] == 1.0


def test_the_chart_shows_medians_and_their_ratio():
    svg = page.bars([("frozen & such", {"fastai": [100.0, 120.0], "xrayfast": [10.0]})], "seconds")
    assert "frozen &amp; such" in svg
    assert "10 (11.0×)" in svg
    assert svg.count("<path") == 1  # one value has no range


def test_a_failure_is_shown_and_tried_again(results):
    job = scenarios.unfrozen(GIVEN)[0]
    results.begin("unfrozen", asdict(GIVEN), "")
    results.add(job, {"error": "Traceback\nno such option"})
    assert results.get(job) is None
    assert "**failed**: unfrozen, xrayfast, seed 0 – no such option" in page.page(results)
    results.add(job, fit_row(5.0))
    assert "**failed**" not in page.page(Results(results.path))


def test_scenarios_share_equal_jobs():
    given = scenarios.Options()
    unfrozen, progressive = ({job.key for job in jobs(given)} for jobs in (scenarios.unfrozen, scenarios.progressive))
    assert len(unfrozen & progressive) == 3  # the rounds of fastai
    for name, scenario in scenarios.SCENARIOS.items():
        jobs = scenario.jobs(given)
        assert len({job.key for job in jobs}) == len(jobs), name
        assert all(scenarios.expected(job) > 0 for job in jobs)
        assert json.loads(json.dumps([asdict(job) for job in jobs])) == [asdict(job) for job in jobs], name


def test_contestants_take_turns():
    names = [job.contestant for job in scenarios.frozen10(GIVEN)]
    assert names[:4] == ["xrayfast", "fastai", "xrayfast", "fastai"]


def test_equality_holds_within_the_spread_of_seeds():
    assert targets.as_good([0.80, 0.84], [0.83, 0.85])
    assert not targets.as_good([0.70, 0.71], [0.83, 0.85])
    assert targets.as_good([0.9, 0.91], [0.8, 0.8])
    assert not targets.as_good([0.83, 0.77, 0.84, 0.78], [0.87, 0.80, 0.87, 0.81]), "lower in each seed"


def test_the_deviation_from_a_line_is_a_share_of_the_time_after_the_start(tmp_path):
    found, given = Results(tmp_path / "results.jsonl"), scenarios.Options(images=100, rounds=1)
    jobs = scenarios.linear(given)
    for job, seconds in zip(jobs, (15.0, 33.0, 85.0), strict=True):  # 10 s + 0.05 s per image, one value 3 s above it
        found.add(job, fit_row(seconds))
    outcome = target("linear").measure(found, given)
    start, slope = 15 - 100 * 70 / 1500, 70 / 1500
    assert outcome.values == pytest.approx([100 * abs(33 - start - 400 * slope) / (400 * slope)])
    assert not target("linear").met(targets.Outcome([16.0]))


def test_the_limit_is_compared_by_unfrozen_epochs_from_the_second_on(tmp_path):
    found, given = Results(tmp_path / "results.jsonl"), scenarios.Options(rounds=2)
    for job in scenarios.unfrozen(given):
        row = fit_row(20.0 if job.contestant == "xrayfast" else 10.0 + job.seed)
        row["result"]["epochs"][0]["seconds"] = 1000.0
        found.add(job, row)
    assert target("limit").measure(found, given).values == pytest.approx([0.5, 0.55])


def test_two_processes_are_compared_by_their_losses(tmp_path):
    found, given = Results(tmp_path / "results.jsonl"), scenarios.Options()
    one, two, all_one, all_two, *seeds, by_default = scenarios.distributed(given)
    assert (one.settings["batch_size"], two.settings["batch_size"]) == (16, 8)
    assert [job.seed for job in seeds] == [1, 2] and by_default.settings["options"] == ""
    found.add(one, fit_row(5.0))
    other = fit_row(5.0)
    other["result"]["epochs"][1]["valid_loss"] += 2e-4
    found.add(two, other)
    outcome = target("distributed").measure(found, given)
    assert outcome.values == pytest.approx([2e-4])
    assert not target("distributed").met(outcome)
    assert target("distributed-all").measure(found, given) is None
    for job, loss in ((all_one, 0.0), (all_two, 0.1), (seeds[0], 0.5), (seeds[1], 0.25), (by_default, 0.3)):
        row = fit_row(5.0)
        row["result"]["epochs"][0]["train_loss"] += loss
        found.add(job, row)
    outcome = target("distributed-all").measure(found, given)
    assert outcome.values == pytest.approx([0.2]) and target("distributed-all").met(outcome)
    assert outcome.text.startswith("Two processes and one: 1.0e-01; seeds of one process: up to 5.0e-01; two processes")


def test_distributed_losses_must_be_equal_with_and_without_the_store(tmp_path):
    found, given = Results(tmp_path / "results.jsonl"), scenarios.Options()
    assert target("cache").measure(found, given) is None
    for job in scenarios.cache(given):
        row = fit_row(5.0)
        row["result"]["epochs"][2]["train_loss"] += job.seed
        found.add(job, row)
    assert target("cache").met(target("cache").measure(found, given))
    *_, direct = scenarios.cache(given)
    assert "--no-cache" in xrayfast_fit.command(Orders("fit", direct.settings, 1, "images", "split.csv", "scratch"))
    row["result"]["epochs"][2]["valid_loss"] += 1e-6
    found.add(direct, row)
    outcome = target("cache").measure(found, given)
    assert outcome.values == pytest.approx([0, 0, 1e-6])
    assert not target("cache").met(outcome)


@linux
def test_memory_is_summed_over_the_tree():
    hold = "import time; held = bytearray(60_000_000); print('ready', flush=True); time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as parent:
        try:
            parent.stdout.readline()
            assert len(descendants(parent.pid)) == 2
            memory = PeakMemory(parent.pid, every=0.02)
            memory.start()
            while not memory.peak_mb and parent.poll() is None:
                time.sleep(0.01)
            peak = memory.stop()
            assert pss_mb(parent.pid) < 40
            assert 57 < peak < 140
        finally:
            os.killpg(parent.pid, 9)


def test_a_process_is_timed_from_outside(tmp_path):
    words = [sys.executable, "-c", "import time; time.sleep(0.3); print('so')"]
    found, output = measure.process(words, dict(os.environ), tmp_path / "log.txt")
    assert 0.3 <= found["seconds"] < 60
    assert output.strip() == "so"
    with pytest.raises(measure.Failure, match="exit code 3: oh dear"):
        code = "import sys; print('oh dear', file=sys.stderr); sys.exit(3)"
        measure.process([sys.executable, "-c", code], dict(os.environ), tmp_path / "log.txt")


def test_images_are_made_once_with_one_split_for_all(tmp_path):
    data_dir = ImageSet("phantoms16", 12, 64)
    make(data_dir, None, tmp_path)
    orders = Orders("fit", {}, 0, str(data_dir.folder(tmp_path)), str(data_dir.split_file(tmp_path)), "")
    train, valid = orders.subset("train"), orders.subset("valid")
    assert len(train) + len(valid) == 12
    assert not {path for path, _ in train} & {path for path, _ in valid}
    assert len(orders.labels) == 3
    from PIL import Image

    with Image.open(train[0][0]) as image:
        assert image.mode == "I;16"
    before = Path(train[0][0]).stat().st_mtime_ns
    make(data_dir, None, tmp_path)
    assert Path(train[0][0]).stat().st_mtime_ns == before


def test_xrayfast_is_run_as_a_user_runs_it():
    job = scenarios.progressive(scenarios.Options())[0]
    words = xrayfast_fit.command(Orders("fit", job.settings, 1, "images", "split.csv", "scratch"))
    line = " ".join(words[1:])
    assert line.startswith("-m xrayfast fit images --arch resnet18")
    for split in ("--unfreeze ", "--freeze-epochs 1", "--epochs 5", "--progressive 128,176,224", "--seed 1", "--json"):
        assert split in line
    assert "--cache-dir scratch/cache" in line
    two = scenarios.distributed(scenarios.Options())[1]
    words = xrayfast_fit.command(Orders("distributed", two.settings, 0, "images", "split.csv", "scratch"))
    assert words[1:5] == ["-m", "torch.distributed.run", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_the_rows_of_a_gpu_are_measured_without_one_too(tmp_path):
    words = [sys.executable, ROOT / "examples" / "benchmarks", "--gpu", "--quick", "--work", tmp_path]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in (tmp_path / "gpu" / "quick" / "gpu.md").read_text().splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + len(gpu.rows(scenarios.Options(quick=True))), lines
    assert not [line for line in lines if "failed" in line or "–" in line], lines


def test_the_rows_of_a_gpu_are_those_of_the_issue_and_others_wait_for_time(tmp_path, monkeypatch):
    names = [row.what for row in gpu.rows(scenarios.Options())]
    assert [name.split(":")[0] for name in names[:4]] == [
        f"unfrozen epoch, {images:,} images, batch {batch}" for images in (1000, 10_000) for batch in (64, 256)
    ]
    assert names[4].startswith("10 frozen epochs") and names[5].startswith("5 epochs of all layers")
    assert names[-1] == "predict 10,000 files, s"
    monkeypatch.setattr(gpu, "_tests", lambda: True)
    monkeypatch.setattr(gpu, "SECONDS", 0)
    monkeypatch.setattr(gpu, "run", lambda job, workspace: pytest.fail("measured"))
    assert gpu.main(scenarios.Options(), measure.Workspace(tmp_path, None, 2), again=False) == 0
    assert (tmp_path / "gpu.md").read_text().count("not measured") == len(names)
    row = gpu.rows(scenarios.Options())[0]
    measured = fit_row(10.0), fit_row(8.0)
    measured[1]["result"]["how"] = "eager"
    assert row.value(dict(zip(("ours", "limit"), measured, strict=True))) == (0.8, "0.800 s (eager) / 1.000 s")


def test_the_command_lists_its_scenarios(tmp_path):
    words = [sys.executable, str(ROOT / "examples" / "benchmarks"), "--list", "--work", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in scenarios.SCENARIOS)
    assert machine()["cores"]
