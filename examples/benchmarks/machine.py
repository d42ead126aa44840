"""The machine, library versions and commit of a measurement."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from xrayfast import __version__

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("torch", "torchvision", "fastai", "timm", "pillow", "numpy")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_flags() -> set[str]:
    return set(_cpuinfo("flags").split())


def machine() -> dict[str, str]:
    """Return CPU, cores, memory, GPU, AMX and system."""
    return {
        "CPU": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": str(cores()),
        "memory": _memory(),
        "GPU": _gpu() or "none",
        "AMX": "yes" if "amx_bf16" in cpu_flags() else "no",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def versions() -> dict[str, str]:
    """Return the versions of xrayfast, which may be a checkout, and of the installed libraries."""
    found = {"xrayfast": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Return the checked-out commit, with "+" if files have changed since; "" outside git."""
    head = _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", "--", "xrayfast")
    return head + "+" * bool(head and changed)


def installed(name: str) -> bool:
    return name in versions()


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "unknown"


def _gpu() -> str:
    return _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") if shutil.which("nvidia-smi") else ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
