"""Time xrayfast, fastai, torchvision, timm and the compute-only limit of the machine, and write BENCHMARKS.md.

    python examples/benchmarks                                  # everything; continues where it stopped
    python examples/benchmarks --list                           # list the scenarios and how long each takes
    python examples/benchmarks --only frozen10 --rounds 2 --images 300
    python examples/benchmarks --write-only                     # write the page again from the existing results
    python examples/benchmarks --quick                          # a check that everything runs, in minutes
    python examples/benchmarks --gpu                            # the rows and tests of a GPU, in under nine minutes

Every measurement is appended to the results file as soon as it is done, and is not repeated unless --again is given.
"""

import argparse
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

# When the folder is run, Python searches it for modules, but the imports name them as modules of the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import gpu, page  # noqa: E402
from benchmarks.machine import ROOT, cores, cpu_flags, installed, machine  # noqa: E402
from benchmarks.measure import Failure, Workspace, run  # noqa: E402
from benchmarks.results import Job, Results  # noqa: E402
from benchmarks.scenarios import SCENARIOS, Options, expected  # noqa: E402


def main(words: list[str] | None = None) -> int:
    args = arguments(words)
    given = Options(args.quick, args.images, args.rounds, args.weights, args.xrayfast_options, args.threads)
    results = Results(args.results)
    if args.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:12} {minutes(scenario.jobs(given)):5.1f} min  {scenario.about}")
        return 0
    if args.gpu:
        workspace = Workspace(args.work.resolve() / "gpu" / ("quick" * args.quick), None, given.threads)
        return 1 if gpu.main(given, workspace, args.again) else 0
    failures = 0 if args.write_only else measure(args, given, results)
    page.write(results, args.page, args.page.parent / "examples" / "images")
    print(f"Written: {args.page}")
    return 1 if failures else 0


def measure(args: argparse.Namespace, given: Options, results: Results) -> int:
    """Run the chosen scenarios, and return the number of failed measurements."""
    chosen = args.only or list(SCENARIOS)
    jobs = {
        name: [job for job in SCENARIOS[name].jobs(given) if job.contestant != "timm" or installed("timm")]
        for name in chosen
    }
    waiting = {job.key: job for of in jobs.values() for job in of if args.again or results.get(job) is None}
    print(f"{machine()}\n{len(waiting)} measurements, about {minutes(list(waiting.values())):.0f} min:", flush=True)
    workspace = Workspace(args.work.resolve(), source(args.data), given.threads)
    command = shlex.join(["python", "examples/benchmarks", *args.words]).replace(f"{ROOT.parent}/", "../")
    failures = 0
    for name, of in jobs.items():
        results.begin(name, asdict(given), command)
        print(f"{name}: {SCENARIOS[name].about}", flush=True)
        for job in of:
            if waiting.pop(job.key, None) is None:
                continue
            failures += not done(job, workspace, results)
        page.write(results, args.page, args.page.parent / "examples" / "images")
    return failures


def done(job: Job, workspace: Workspace, results: Results) -> bool:
    """Run one job and save its row; return whether it succeeded."""
    name = page.label(vars(job))
    print(f"  {name}, round {job.seed} (about {expected(job):.0f} s) ...", flush=True)
    try:
        row = run(job, workspace)
    except Failure as error:
        results.add(job, {"error": str(error)})
        print(f"  {name}: failed, {str(error).splitlines()[-1]} (see {workspace.work / 'log.txt'})", flush=True)
        return False
    results.add(job, row)
    found = row["result"]
    more = f", accuracy {found['epochs'][-1]['accuracy']:.3f}" if "accuracy" in found.get("epochs", [{}])[-1] else ""
    print(f"  {name}: {row['seconds']:.1f} s, {row['peak_mb']} MB{more}", flush=True)
    return True


def minutes(jobs: list[Job]) -> float:
    slow = 1.0 if "amx_bf16" in cpu_flags() else 2.0
    own = sum(expected(job) * (slow if job.contestant in ("xrayfast", "limit") else 1) for job in jobs)
    return own / 60


def source(given: Path | None) -> Path | None:
    """Return the folder of class folders, or None for phantoms."""
    if given is not None and not given.is_dir():
        sys.exit(f"--data {given}: no such folder; expected one of class folders.")
    return given


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python examples/benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="a scenario; may be repeated")
    parser.add_argument("--list", action="store_true", help="list the scenarios and their expected minutes, and end")
    parser.add_argument("--images", type=int, help="training and validation images, instead of the scenario's own")
    parser.add_argument("--rounds", type=int, help="instead of the scenario's own")
    parser.add_argument("--data", type=Path, help="class folders of radiographs (phantoms)")
    parser.add_argument("--weights", choices=["imagenet", "none"], default="imagenet", help="that all start from")
    parser.add_argument("--xrayfast-options", default="", metavar="OPTIONS", help="more options of 'xrayfast fit'")
    parser.add_argument("--threads", type=int, default=cores(), help="of torch, for all contestants (the cores)")
    parser.add_argument("--again", action="store_true", help="measure anew what is there already")
    parser.add_argument("--quick", action="store_true", help="64 px and a few images, to see that it runs")
    parser.add_argument("--gpu", action="store_true", help="measure the rows of a GPU alone, and run pytest -m cuda")
    parser.add_argument("--write-only", action="store_true", help="write the page from the results there are")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks", help="image sets and scratch files")
    parser.add_argument("--results", type=Path, help="examples/benchmarks/results.jsonl; with --quick under --work")
    parser.add_argument("--page", type=Path, help="BENCHMARKS.md; with --quick under --work")
    args = parser.parse_args(words)
    args.words = sys.argv[1:] if words is None else words
    home = args.work / "quick" if args.quick else None
    args.results = args.results or (home or Path(__file__).parent) / "results.jsonl"
    args.page = args.page or (home or ROOT) / "BENCHMARKS.md"
    args.page.parent.mkdir(parents=True, exist_ok=True)
    return args


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nStopped. Started again, it goes on after the last measurement that was done.")
        sys.exit(130)
