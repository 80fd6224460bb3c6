"""How long the command line takes to start: medians over several starts, one after another in one run.

    python benchmarks/startup.py

Goals: `--help` within 0.5 s, `zoo` within 1 s, a first prediction of a file by numpy within 0.3 s. A bare
interpreter stands beside them.
"""

import argparse
import statistics
import subprocess
import sys
import time

FIRST_PREDICTION = """
import numpy, pyro_compress
pyro_compress.load("lenet-5/log-uniform").to_numpy()(numpy.zeros((1, 1, 28, 28)))
"""
ROWS = {
    "python -c pass": (["-c", "pass"], None),
    "pyro-compress --help": (["-m", "pyro_compress", "--help"], 0.5),
    "pyro-compress zoo": (["-m", "pyro_compress", "zoo"], 1.0),
    "load, decode, first prediction": (["-c", FIRST_PREDICTION], 0.3),
}


def seconds(words: list[str]) -> float:
    """Wall time of one start."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Start everything in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11)
    repeats = parser.parse_args().repeats
    for words, _ in ROWS.values():
        seconds(words)  # files that have not been read yet
    found: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(repeats):
        for name, (words, _) in ROWS.items():
            found[name].append(seconds(words))
    print("| start | median s | range | goal s |")
    print("| --- | --- | --- | --- |")
    for name, (_, goal) in ROWS.items():
        times = found[name]
        print(f"| {name} | {statistics.median(times):.2f} | {min(times):.2f}–{max(times):.2f} | {goal or '–'} |")


if __name__ == "__main__":
    main()
