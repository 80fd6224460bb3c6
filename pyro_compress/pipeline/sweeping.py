"""Zoo entries over several seeds: one process per run, through Ray or local ones, and one table at the end.

A run is `pyro-compress run` in a process of its own, whose output goes into a log beside its directory, so a run that
fails takes none of the others with it.  Nothing is kept of a sweep but its runs: given again, it goes on.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_compress.errors import RunError, unknown_name
from pyro_compress.models import zoo

COLUMNS = ("file_rate", "error_after_percent", "error_before_percent", "weights_left_percent", "file_bytes")
THROUGH = ("auto", "ray", "processes")
# of the starting process, which a worker of Ray's need not have
HANDED_ON = ("PYTHONPATH", "PYRO_COMPRESS_DATA")


@dataclass(frozen=True)
class Task:
    """One run of a sweep.

    Attributes:
        entry: of the zoo.
        seed: of the run.
        directory: of the run; its log lies beside it.
        threads: of torch.
        run_arguments: further words of the command line, for a run that has not started yet.
    """

    entry: str
    seed: int
    directory: str
    threads: int
    run_arguments: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        return Path(self.directory + ".log")

    @property
    def finished(self) -> bool:
        return (Path(self.directory) / "results.json").exists()

    def command(self) -> list[str]:
        """Starts the run, or goes on with it."""
        words = [sys.executable, "-m", "pyro_compress", "run"]
        if (Path(self.directory) / "settings.json").exists():
            return [*words, "--resume", self.directory]
        own = ["--seed", str(self.seed), "--threads", str(self.threads), "--out", self.directory]
        return [*words, self.entry, *own, *self.run_arguments]


def entries_and_seeds(words: Iterable[str], seeds: str) -> tuple[list[str], list[int]]:
    """Entries and seeds of a command line like `ENTRY ENTRY --seeds 0 1 2`, each once.

    An option of a command line takes one word, so the seeds after the first arrive among the entries; no entry is a
    number.

    Raises:
        RunError: a seed that is no number.
    """
    words = list(words)
    numbers = [*seeds.replace(",", " ").split(), *(word for word in words if word.isdecimal())]
    wrong = next((word for word in numbers if not word.isdecimal()), None)
    if wrong is not None:
        raise RunError(f"--seeds takes numbers from 0 up, found '{wrong}'")
    entries = [word for word in words if not word.isdecimal()]
    return list(dict.fromkeys(entries)), [int(word) for word in dict.fromkeys(numbers)]


def tasks_of(
    entries: Iterable[str], seeds: Sequence[int], folder: Path, threads: int, run_arguments: Sequence[str] = ()
) -> list[Task]:
    """One run per seed and entry, all entries of a seed first.

    Raises:
        PyroCompressError: the zoo has no such entry.
    """
    names = [zoo.entry(name).name for name in entries]
    folder = folder.resolve()
    return [
        Task(name, seed, str(folder / f"{name.replace('/', '-')}-seed{seed}"), threads, tuple(run_arguments))
        for seed in seeds
        for name in names
    ]


def run_all(
    tasks: Sequence[Task], *, processes: int | None, through: str, say: Callable[[str], None]
) -> dict[Task, str]:
    """Run what has not finished.

    Args:
        tasks: all runs of the sweep.
        processes: at a time; None is as many as there are cores for.
        through: 'ray', 'processes' or 'auto'.
        say: told one line per run.

    Raises:
        RunError: Ray is asked for and not there.

    Returns:
        What each run that failed ended with.
    """
    if through not in THROUGH:
        raise RunError(unknown_name("way to start runs", through, THROUGH))
    there = importlib.util.find_spec("ray") is not None
    if through == "ray" and not there:
        raise RunError("--through ray needs Ray: pip install 'pyro-compress[ray]', or leave the option out")
    left = [task for task in tasks if not task.finished]
    if len(left) < len(tasks):
        say(f"{len(tasks) - len(left)} of {len(tasks)} runs have finished before")
    if not left:
        return {}
    Path(left[0].directory).parent.mkdir(parents=True, exist_ok=True)
    processes = processes or max(1, cores() // left[0].threads)
    started, failed = time.perf_counter(), {}
    for done, (task, trouble) in enumerate(
        (_by_ray if there and through != "processes" else _locally)(left, processes)
    ):
        if trouble is not None:
            failed[task] = trouble
        minutes = (time.perf_counter() - started) / 60
        outcome = "has finished" if trouble is None else f"FAILED ({trouble}), see {task.log}"
        say(f"{task.entry} with seed {task.seed} {outcome}; {done + 1} of {len(left)} after {minutes:.1f} minutes")
    return failed


def cores() -> int:
    """Cores that this process may use; where the system has no such notion (macOS, Windows), all that there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def refuse_failures(failed: Mapping[Task, str], count: int) -> None:
    """End a sweep in which runs failed.

    Raises:
        RunError: there are any; says which.
    """
    if failed:
        which = "; ".join(f"{task.entry} with seed {task.seed}: {trouble}" for task, trouble in failed.items())
        raise RunError(f"{len(failed)} of {count} runs failed ({which}); give the command again to go on with them")


def _locally(tasks: Sequence[Task], processes: int) -> Iterable[tuple[Task, str | None]]:
    with ThreadPoolExecutor(processes) as pool:
        running = {pool.submit(run_one, task, {}): task for task in tasks}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _by_ray(tasks: Sequence[Task], processes: int) -> Iterable[tuple[Task, str | None]]:
    import ray

    # a cluster that RAY_ADDRESS names knows its cores; one that is started here has as many as the runs may take
    cores = None if "RAY_ADDRESS" in os.environ else processes * tasks[0].threads
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        remote = ray.remote(num_cpus=tasks[0].threads, max_retries=0)(run_one)
        running = {remote.remote(task, environment): task for task in tasks}
        while running:
            (ready,), _ = ray.wait(list(running), num_returns=1)
            task = running.pop(ready)
            try:
                yield task, ray.get(ready)
            except ray.exceptions.RayError as error:
                yield task, f"{type(error).__name__}: its worker is gone"
    finally:
        ray.shutdown()


def run_one(task: Task, environment: Mapping[str, str]) -> str | None:
    """One run in a process of its own; what it ended with if it failed."""
    everything = {**os.environ, **environment, "OMP_NUM_THREADS": str(task.threads)}
    with task.log.open("a") as log:
        done = subprocess.run(task.command(), check=False, stdout=log, stderr=subprocess.STDOUT, env=everything)
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in task.log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {done.returncode}"


# ---- the table


def collect(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """results.json of every finished run in a folder, by entry; seeds ascend."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/results.json")):
        results = json.loads(path.read_text())
        found.setdefault(str(results["entry"]), []).append(results)
    return {entry: sorted(runs, key=lambda one: int(one["seed"])) for entry, runs in found.items()}


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterable[str]:
    """Markdown rows: median over seeds, the worst seed in brackets; no rows where nothing has finished."""
    if found:
        heads = ("file rate", "error after %", "error before %", "weights left %", "file bytes")
        yield f"| entry | seeds | β | {' | '.join(heads)} | minutes |"
        yield "| --- " * (len(heads) + 4) + "|"
    for entry, runs in found.items():
        seeds = ", ".join(str(one["seed"]) for one in runs)
        cells = []
        for column in COLUMNS:
            values = [one[column] for one in runs]
            worst = min(values) if column == "file_rate" else max(values)
            digits = {"file_bytes": ",.0f", "file_rate": ".0f"}.get(column, ".2f")
            cells.append(f"{statistics.median(values):{digits}} ({worst:{digits}})")
        minutes = max(one["wall_seconds"] for one in runs) / 60
        yield f"| {entry} | {seeds} | {runs[0]['kl_weight']:g} | {' | '.join(cells)} | {minutes:.0f} |"
