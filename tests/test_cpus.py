"""The CPU use of other programs."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from xrayfast import cpus
from xrayfast.cpus import CpuMeter

Times = namedtuple("Times", "user nice system idle iowait irq softirq steal guest guest_nice")


class Machine:
    """A fake machine: a clock, three CPUs (this process may use the first and third) and CPU times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.busy, self.own, self.slept = 1000.0, [50.0, 70.0, 90.0], 5.0, 0.0
        process = SimpleNamespace(cpu_affinity=lambda: [0, 2], cpu_times=lambda: (self.own, 0.0, 0.0, 0.0, 9.0))
        monkeypatch.setattr(cpus, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep))
        monkeypatch.setattr(cpus.psutil, "Process", lambda: process)
        monkeypatch.setattr(cpus.psutil, "cpu_times", lambda percpu: [self.times(busy) for busy in self.busy])

    def times(self, busy: float) -> Times:
        return Times(busy - 4, 1, 1, self.now - busy, 3, 1, 0.5, 0.5, guest=7, guest_nice=1)

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.run(seconds, others=2.0)

    def run(self, seconds: float, others: float, own: float = 0.0) -> None:
        """Advance the clock: other programs use the first and second CPU, this process the third."""
        self.now += seconds
        self.busy = [self.busy[0] + seconds * others, self.busy[1] + seconds, self.busy[2] + seconds * own]
        self.own += seconds * own


def test_use_by_others_is_the_load_of_usable_cpus_without_our_own(monkeypatch):
    machine = Machine(monkeypatch)
    meter = CpuMeter()
    machine.run(4.0, others=0.75, own=1.0)
    assert meter.others() == pytest.approx(0.75)
    assert meter.describe() == "other programs use 0.8 of 2 CPUs"
    machine.run(10.0, others=0.25, own=1.0)
    assert meter.others() == pytest.approx(0.25), "since the last call"
    assert meter.describe() == ""
    machine.run(0.1, others=1.0)
    assert meter.others() == pytest.approx(0.25), "too short to measure: the same again"
    assert machine.slept == 0


@pytest.mark.parametrize("seconds", [0.1, 100.0])
def test_an_interval_that_is_too_short_or_too_long_is_measured_again(monkeypatch, seconds):
    machine = Machine(monkeypatch)
    meter = CpuMeter()
    machine.run(seconds, others=0.0)
    assert meter.others() == pytest.approx(2.0 * 0.3 / (0.4 if seconds < 1 else 0.3))
    assert machine.slept == pytest.approx(0.3)


def test_a_busy_process_is_measured():
    meter = CpuMeter()
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        meter.others()
        assert meter.others() > 0.2
    finally:
        spinning.kill()
        spinning.wait()


@pytest.mark.parametrize("error", [OSError, psutil.AccessDenied, NotImplementedError])
def test_a_system_without_cpu_times_has_no_load(monkeypatch, error):
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cpus.psutil, "cpu_times", fail)
    assert CpuMeter().others() == 0.0


V1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
JOB = "0::/system.slice/job_7/step_0\n"
OF_V1 = "9:cpuset:/other\n4:cpu,cpuacct:/slurm/job_7\n0::/unified\n"


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("", {}, math.inf),
        ("", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("", {f"cpu/{V1[0]}": "-1\n", f"cpu/{V1[1]}": "100000\n"}, math.inf),
        ("", {f"cpu/{V1[0]}": "400000\n", f"cpu/{V1[1]}": "100000\n"}, 4.0),
        (JOB, {"system.slice/job_7/cpu.max": "300000 100000", "system.slice/job_7/step_0/cpu.max": "max 100000"}, 3.0),
        (JOB, {"system.slice/cpu.max": "200000 100000", "system.slice/job_7/step_0/cpu.max": "300000 100000"}, 2.0),
        (JOB, {"system.slice/other/cpu.max": "200000 100000", "job_7/cpu.max": "100000 100000"}, math.inf),
        (OF_V1, {f"cpu/slurm/job_7/{V1[0]}": "250000", f"cpu/slurm/job_7/{V1[1]}": "100000"}, 2.5),
        (OF_V1, {f"cpu/{name}": "100000" for name in V1} | {f"cpu/slurm/{V1[0]}": "-1"}, 1.0),
        ("0::/docker/of the host\n", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/../beside\n", {"cpu.max": "50000 0"}, math.inf),
        ("a line of another form", {"cpu.max": "no number"}, math.inf),
    ],
)
def test_the_least_quota_of_the_control_groups_around_this_process_is_read(own, files, quota, tmp_path):
    (tmp_path / "cgroup").write_text(own)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    assert cpus._quota(tmp_path / "fs", tmp_path / "cgroup") == quota


def test_cpus_are_those_that_loky_counts(monkeypatch):
    joblib = pytest.importorskip("joblib")
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    with monkeypatch.context() as patch:  # loky reads only one control group
        patch.setattr(cpus, "_quota", lambda read=cpus._quota: read(own=Path("/none")))
        assert cpus.cpu_count() == joblib.cpu_count()
    monkeypatch.setattr(cpus, "_quota", lambda: 0.5)
    assert cpus.cpu_count() == 1


@pytest.mark.parametrize(
    ("threads", "more", "others", "expected"),
    [
        ("2", {}, 1.2, "passive"),
        ("2", {}, 0.2, None),
        ("1", {}, 2.0, None),
        ("", {}, 2.0, None),
        ("4,2", {}, 2.0, None),
        ("", {"MKL_NUM_THREADS": "2"}, 1.2, "passive"),
        ("2", {"OMP_WAIT_POLICY": "active"}, 1.2, "active"),
        ("2", {"GOMP_SPINCOUNT": "9"}, 1.2, None),
    ],
)
def test_more_threads_than_free_cpus_wait_passively_unless_the_user_decides(
    threads, more, others, expected, monkeypatch
):
    environment = {"OMP_NUM_THREADS": threads, **more}
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(cpus, "os", SimpleNamespace(environ=environment))
    monkeypatch.setattr(cpus, "cpu_count", lambda: 2)
    monkeypatch.setattr(cpus.METER, "others", lambda: others)
    cpus.choose_waiting()  # torch is loaded, too late
    assert environment.get("OMP_WAIT_POLICY") == more.get("OMP_WAIT_POLICY")
    monkeypatch.delitem(sys.modules, "torch")
    cpus.choose_waiting()
    assert environment.get("OMP_WAIT_POLICY") == expected


def test_how_threads_wait_is_chosen_before_torch_is_imported():
    code = "import os, sys, xrayfast.workflows.steps; print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"
    environment = {name: text for name, text in os.environ.items() if name not in cpus._WAITING}
    environment["OMP_NUM_THREADS"] = "100000"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["passive", "False"]
