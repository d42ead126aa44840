"""Features of POSIX systems are used only behind a check, and worker processes may be spawned."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import xrayfast

PACKAGE = Path(xrayfast.__file__).parent

# Names that Python's documentation marks "Availability: Unix" or similar, if this package could use them.
POSIX_ONLY = {
    "os": """chown chroot fchmod fchown fork forkpty getegid geteuid getgid getgroups getloadavg getpgid getpgrp
        getpriority getuid killpg lchown lockf mkfifo mknod nice openpty posix_fadvise posix_fallocate posix_spawn pread
        pwrite sched_getaffinity sched_setaffinity setgid setpgid setpriority setsid setuid statvfs sync sysconf uname
        wait wait3 wait4 O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_SYNC kill""",
    "signal": """SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 SIGXCPU
        alarm pause pthread_kill pthread_sigmask setitimer siginterrupt sigwait""",
    "select": "epoll kqueue poll",
}
"""`os.kill` exists on Windows, but ends the process whatever the signal."""
POSIX_ONLY = {module: set(names.split()) for module, names in POSIX_ONLY.items()}
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
KEYWORDS = {"preexec_fn", "start_new_session", "pass_fds", "process_group"}


def guards(tree):
    """Yield the nodes inside a guard: a check with hasattr or of the platform, or a handler of ImportError."""
    for node in ast.walk(tree):
        test = ast.unparse(node.test) if isinstance(node, (ast.If, ast.IfExp)) else ""
        if "hasattr(" in test or "sys.platform" in test or "os.name" in test:
            yield from ast.walk(node)
        if isinstance(node, ast.Try) and any("ImportError" in ast.unparse(h.type or node) for h in node.handlers):
            yield from (inner for part in node.body for inner in ast.walk(part))
        if isinstance(node, ast.With) and "suppress(ImportError" in ast.unparse(node.items[0]):
            yield from ast.walk(node)


def unguarded(tree):
    """Yield the line and the names of each use of a POSIX feature outside a guard."""
    guarded = {id(node) for node in guards(tree)}
    for node in ast.walk(tree):
        found = set()
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = {node.attr} & POSIX_ONLY.get(node.value.id, set())
        elif isinstance(node, ast.Import):
            found = {alias.name for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found = {node.module} & MODULES or {alias.name for alias in node.names} & POSIX_ONLY.get(node.module, set())
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = {node.value} & {"/dev/null", "/dev/shm", "/tmp", "fork", "forkserver"}
        elif isinstance(node, ast.keyword):
            found = {node.arg} & KEYWORDS
        if found and id(node) not in guarded:
            yield getattr(node, "lineno", "?"), found


@pytest.fixture(scope="module")
def trees():
    """The syntax trees of the package, by path."""
    return {path.relative_to(PACKAGE): ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def test_posix_features_are_guarded(trees):
    found = {path: [*unguarded(tree)] for path, tree in trees.items()}
    assert not {path: uses for path, uses in found.items() if uses}


def lacks_encoding(call):
    """Whether a call opens, reads or writes text in the encoding of the system, which is not UTF-8 on Windows."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in ("read_text", "write_text"):
        is_text = isinstance(call.func, ast.Attribute) and len(call.args) < 1 + (name == "write_text")
    elif name == "open":  # with a mode such as "w"
        modes = [node.value for node in [*call.args, *given.values()] if isinstance(node, ast.Constant)]
        is_text = any(mode in ("r", "w", "a", "x", "w+", "r+") for mode in modes)
    else:
        is_text = isinstance(given.get("text"), ast.Constant)  # text=True of subprocess
    return is_text and "encoding" not in given


def test_text_is_read_and_written_with_an_encoding(trees):
    for text in ("p.open('w')", "open(p, 'r')", "p.read_text()", "p.write_text(t)", "run(words, text=True)"):
        assert lacks_encoding(ast.parse(text).body[0].value), text
    for text in ("p.open('rb')", "p.open('w', encoding='ascii')", "p.read_text('utf-8')", "Image.open(p)"):
        assert not lacks_encoding(ast.parse(text).body[0].value), text
    for path, tree in trees.items():
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert not [call.lineno for call in calls if lacks_encoding(call)], path


SCRIPT = """
import multiprocessing, os, pkgutil, signal, sys
# Other people's guards are theirs.
import fastai.vision.all, filelock, gdcm, matplotlib.pyplot, plotext, rich.console, sklearn.linear_model, typer

for module, names in {names}.items():
    for name in names:
        if hasattr(sys.modules.get(module), name):
            delattr(sys.modules[module], name)
sys.modules.update(dict.fromkeys({modules}))

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    import xrayfast as xf
    for module in pkgutil.walk_packages(xf.__path__, "xrayfast."):
        if not module.name.endswith("__main__"):
            __import__(module.name)
    from pathlib import Path
    from xrayfast.cli import app

    words = ["--arch", "resnet18", "--weights", "none", "--size", "32", "--batch-size", "8", "--device", "cpu"]
    words += ["--epochs", "1", "--unfreeze", "--freeze-epochs", "0", "--resamples", "20", "--workers", "0"]
    app(["fit", {data!r}, *words], standalone_mode=False)
    data = xf.open_data({data!r})
    spawned, own = (next(iter(xf.dataloaders(data, size=32, batch_size=8, workers=n, device="cpu")[1])) for n in (1, 0))
    assert (spawned[0] == own[0]).all() and (spawned[1] == own[1]).all()
    print("done", multiprocessing.get_start_method())
"""


@pytest.mark.slow
def test_training_works_without_posix_features_and_with_spawned_workers(data_dir, tmp_path):
    # Names that Python and torch themselves need here are kept, such as those that start and end processes.
    needed = {"kill", "statvfs", "SIGCHLD", "SIGKILL", "pthread_sigmask", "poll"}
    needed |= {"O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK"}
    names = {module: sorted(names - needed) for module, names in POSIX_ONLY.items()}
    script = SCRIPT.replace("{names}", repr(names)).replace("{modules}", repr(sorted(MODULES - {"posix"})))
    (tmp_path / "script.py").write_text(script.replace("{data!r}", repr(str(data_dir))))
    paths = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "script.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=300,
    )
    assert done.returncode == 0 and done.stdout.endswith("done spawn\n"), done.stderr[-3000:]
    assert (tmp_path / "runs" / "resnet18-1" / "model.safetensors").is_file()
