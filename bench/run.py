"""Speed of steering as ratios of CPU time to the unsteered model, and rates of the tabletop: `make bench`, or `python bench/run.py`.

The other libraries live in an environment of their own (`bench/peers.py`), which this script makes and then runs itself
in. Where that is not possible it measures this repository alone and says so. A bound that does not hold is printed, and
is no error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # `python bench/run.py` puts this folder there, `-m` the working directory
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # before torch is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
from typing import Any  # noqa: E402

RESULTS = ROOT / "runs" / "bench" / "results.json"
MODEL_CASES = ("decode", "prefill", "call", "attach", "extraction")
SECTIONS = ("tabletop", "vla", "noise", "guidance", "robot")
"""Modules of this folder with `measure(rounds)` and `show(console, found, rounds)`, whatever they measure."""
CASES = (*MODEL_CASES, *SECTIONS)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rounds",
        type=int,
        default=15,
        help="timed rounds of each case (15); decode takes three times as many, extraction half",
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds: does it run, not how fast is it")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of tables")
    parser.add_argument("--alone", action="store_true", help="without the other libraries")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="only these cases")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON is written")
    parser.add_argument("--inside-peers", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.rounds = 3 if options.quick else options.rounds
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def main(argv: list[str] | None = None) -> int:
    """Find the environment of the other libraries and measure in it."""
    argv = sys.argv[1:] if argv is None else argv
    options = arguments(argv)
    if options.inside_peers:
        return measure(options, {})
    if options.alone:
        return measure(options, {"other libraries": "--alone was given."})
    from bench.peers import python_with_peers

    python, reason = python_with_peers()
    if python is None:
        return measure(options, {"other libraries": f"their environment could not be made. {reason}"})
    return subprocess.run([str(python), str(Path(__file__).resolve()), *argv, "--inside-peers"]).returncode


def measure(options: argparse.Namespace, missing: dict[str, str]) -> int:
    """Run the cases and report them.

    Args:
        missing: library -> why it does not take part; not empty means that no other library does.
    """
    from rich.console import Console

    progress = Console(stderr=True)
    contestants, extractors, libraries = [], [], []
    with progress.status("importing"):
        import torch

        from bench import cases, models, report
        from bench.contestants import OUR_EXTRACTORS, OURS

        contestants += OURS
        extractors += OUR_EXTRACTORS
        if not missing:
            from bench import libraries as peers

            missing = peers.load()
            libraries = list(peers.LIBRARIES)
            contestants += [one for one in peers.STEERING if one.needs not in missing]
            extractors += [one for one in peers.EXTRACTION if one.needs not in missing]
    torch.set_num_threads(1)
    size = models.Size()
    wanted = [name for name in options.cases if name in MODEL_CASES]
    rounds = dict.fromkeys(wanted, options.rounds)
    if "decode" in rounds:
        rounds["decode"] = 3 * options.rounds  # its bound is 2 % wide, so the medians must be good to less
    if "extraction" in rounds:
        rounds["extraction"] = max(3, options.rounds // 2)
    model, empty = models.decoder(size), models.emptied(models.decoder(size))
    with progress.status("checking that all do equal work"):
        bench = cases.prepare(model, size, contestants)
    run: dict[str, Callable[[int], cases.Case]] = {
        "decode": lambda n: cases.decode(bench, n),
        "prefill": lambda n: cases.prefill(bench, n),
        "call": lambda n: cases.call(cases.prepare(empty, size, [one for one in contestants if one.hooks]), n),
        "attach": lambda n: cases.attach(model, bench, n),
        "extraction": lambda n: cases.extraction(model, size, extractors, n),
    }
    done = []
    for name, n in rounds.items():
        with progress.status(f"{name}: {n} rounds"):
            done.append(run[name](n))
    sections: dict[str, Any] = {}
    for name in (name for name in options.cases if name in SECTIONS):
        with progress.status(f"{name}: {options.rounds} rounds"):
            sections[name] = importlib.import_module(f"bench.{name}").measure(options.rounds)
    results = report.as_json(done, bench, rounds, libraries, missing)
    results |= {name: found.as_json() for name, found in sections.items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    if options.json:
        print(json.dumps(results, indent=1))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(", ".join(f"{name} {version}" for name, version in results["versions"].items()))
    machine = f"{results['platform']['cores']} cores ({results['platform']['machine']})"
    console.print(f"CPU time of one process, 1 thread, float32, {machine}\n")
    if done:
        report.print_equal_work(console, bench)
    for case in done:
        report.print_case(console, case, rounds[case.name])
    for name, found in sections.items():
        importlib.import_module(f"bench.{name}").show(console, found, options.rounds)
    report.print_summary(console, done, missing, {name: results[name] for name in sections})
    console.print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
