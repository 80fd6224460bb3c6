"""The main job over seeds: run zoo entries, then print one table with the median and the worst seed.

    python benchmarks/main_job.py --out runs/main lenet-300-100/log-uniform --seeds 0 1 2
    python benchmarks/main_job.py --out runs/main --collect          # only the table, from what is there

Runs that have finished are not repeated; a run that was interrupted goes on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

COLUMNS = ("file_rate", "error_after_percent", "error_before_percent", "weights_left_percent", "file_bytes")


def run(entry: str, seed: int, folder: Path, threads: int) -> None:
    """One run in a process of its own."""
    directory = folder / f"{entry.replace('/', '-')}-seed{seed}"
    if (directory / "results.json").exists():
        return
    command = [sys.executable, "-m", "pyro_compress", "run"]
    if (directory / "settings.json").exists():
        command += ["--resume", str(directory)]
    else:
        command += [entry, "--seed", str(seed), "--threads", str(threads), "--out", str(directory)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_suffix(".log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, env=environment)


def collect(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """results.json of every finished run, by entry."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/results.json")):
        results = json.loads(path.read_text())
        found.setdefault(results["entry"], []).append(results)
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> Iterable[str]:
    """Markdown rows: median over seeds, the worst seed in brackets."""
    yield "| entry | seeds | β | file rate | error after % | error before % | weights left % | file bytes | minutes |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for entry, runs in found.items():
        seeds = ", ".join(str(r["seed"]) for r in runs)
        cells = []
        for column in COLUMNS:
            values = [r[column] for r in runs]
            worst = min(values) if column == "file_rate" else max(values)
            digits = {"file_bytes": ",.0f", "file_rate": ".0f"}.get(column, ".2f")
            cells.append(f"{statistics.median(values):{digits}} ({worst:{digits}})")
        minutes = max(r["wall_seconds"] for r in runs) / 60
        yield f"| {entry} | {seeds} | {runs[0]['kl_weight']:g} | {' | '.join(cells)} | {minutes:.0f} |"


def main() -> None:
    """Parse the command line, run what is asked for, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="*", help="zoo entries")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/main"))
    parser.add_argument("--collect", action="store_true", help="print the table of what is there")
    given = parser.parse_args()
    if not given.collect:
        for seed in given.seeds:
            for entry in given.entries:
                run(entry, seed, given.out, given.threads)
    print("\n".join(table(collect(given.out))))


if __name__ == "__main__":
    main()
