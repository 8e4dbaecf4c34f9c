"""
The benchmark: `python tests/bench/run.py [--short] [--only NAME ...] [--out DIR]`.

Prints a table of figures, each with its aim and what it is compared with, and with --out leaves `bench.json` and
`bench.svg` there. Status 1 where an aim is missed, or where something is not right: a picture that is missing, a limit
that was not kept. The short form says too little about how good anything is, so there only the latter counts.

The daemon that is measured is the one that PYTHONPATH, or else the environment, leads to. A busy machine shows in
`late_timer`: what it adds to every wait of the daemon, and several times to a slot that is refilled.
"""

import argparse
import importlib
import json
import math
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.chart import svg
from bench.figure import Figure

import daemon

MODULES = ("occupancy", "minute", "cost", "latency", "scan", "memory", "large", "network")
Measure = Callable[[bool, Path], list[Figure]]
ANSWERS = {True: "yes", False: "NO", None: "-"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("run.py", description="Measure the daemon.")
    parser.add_argument("--short", action="store_true", help="only see that everything works")
    parser.add_argument("--only", nargs="+", choices=MODULES, default=MODULES, metavar="NAME", help=", ".join(MODULES))
    parser.add_argument("--out", type=Path, help="a folder for bench.json and bench.svg")
    options = parser.parse_args(arguments)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="esrgand-bench-") as folder:
        about = machine()
        print(*(f"{name}: {value}" for name, value in about.items()), sep="\n", flush=True)
        wrong = 0
        for name in dict.fromkeys(options.only):
            print(f"... {name}", file=sys.stderr, flush=True)
            (work := Path(folder, name)).mkdir()
            wrong += not collect(importlib.import_module(f"bench.{name}").measure, options.short, work, figures)
    about["load afterwards"] = load()
    print(f"\n{table(figures)}\n\n{details(figures)}\nload afterwards: {about['load afterwards']}", flush=True)
    if options.out:
        write(options.out, about, figures)
    wrong += sum(not math.isfinite(figure.value) for figure in figures)
    missed = sum(figure.met is False for figure in figures)
    return 1 if wrong or missed else 0


def collect(measure: Measure, short: bool, work: Path, figures: list[Figure]) -> bool:
    """Add a module's figures; False where it broke: the others may still say something."""
    try:
        figures += measure(short, work)
    except Exception:  # noqa: BLE001  (a picture that is missing, a process that ended: whatever it was is told)
        traceback.print_exc()
        return False
    return True


def machine() -> dict[str, str]:
    """Where this runs, and what is measured."""
    models = [line.partition(":")[2].strip() for line in cpuinfo() if line.startswith("model name")]
    return {
        "daemon": f"{daemon.__version__} in {daemon.__path__[0]}",
        "machine": f"{os.cpu_count()} cores, {models[0] if models else platform.machine()}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load before": load(),
    }


def cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def load() -> str:
    """How many others want the cores: above their number, the figures are theirs too."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def table(figures: list[Figure]) -> str:
    """Plain text, aligned."""
    rows = [("figure", "value", "unit", "aim", "met", "compared with")]
    rows += [
        (figure.name, f"{figure.value:.3f}", figure.unit, figure.aim, ANSWERS[figure.met], figure.against)
        for figure in figures
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def details(figures: list[Figure]) -> str:
    """What the figures were made from, but for what is only good for drawing."""
    lines = []
    for figure in figures:
        plain = {name: value for name, value in figure.detail.items() if not isinstance(value, list | dict)}
        lines += [figure.name] if plain else []
        lines += [f"    {name}: {round(v, 4) if isinstance(v, float) else v}" for name, v in plain.items()]
    return "\n".join(lines)


def write(out: Path, about: dict[str, str], figures: list[Figure]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"machine": about, "figures": [figure.as_json() for figure in figures]}
    (out / "bench.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    (out / "bench.svg").write_text(svg(f"{about['machine']}, {about['system']}", figures))


if __name__ == "__main__":
    sys.exit(main())
