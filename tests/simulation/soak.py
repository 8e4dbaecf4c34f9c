"""Soak mode: `PYTHONPATH=tests python -m simulation.soak 0 100000` lives through those seeds and tells what broke.

`--trace SEED` prints everything that happens in one of them.
"""

import sys

from simulation.house import run


def main() -> int:
    if sys.argv[1] == "--trace":
        report = run(int(sys.argv[2]))
        print("\n".join(report.trace))
        return 1 if report.wrong else 0
    broken = crashes = pictures = runs = 0
    faults: dict[str, int] = {}
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        report = run(seed)
        crashes += report.crashes
        pictures += report.pictures
        runs += report.runs
        for kind, count in report.faults.items():
            faults[kind] = faults.get(kind, 0) + count
        if report.wrong:
            broken += 1
            print(seed, report.wrong[:3], flush=True)
    print(f"{broken} seeds broke a promise; {crashes} crashes, {pictures} pictures, {runs} runs, {faults}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
