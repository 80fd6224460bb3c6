"""Runs in processes of their own, some at a time, through Ray or local ones.

What a run prints goes into a log, so that one that fails takes none of the others with it.
"""

import importlib.util
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from pyro_compress.errors import RunError, unknown_name
from pyro_compress.extras import needs

THROUGH = ("auto", "ray", "processes")
# of the starting process, which a worker of Ray's need not have
HANDED_ON = ("PYTHONPATH", "PYRO_COMPRESS_DATA")


class Work(ABC):
    """What one process at a time does.

    Attributes:
        threads: of torch.
    """

    threads: int

    @property
    @abstractmethod
    def name(self) -> str:
        """What people are told that it is."""

    @property
    @abstractmethod
    def log(self) -> Path:
        """Where people look for what it printed."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether nothing is left to do."""

    @abstractmethod
    def commands(self) -> Iterator[tuple[list[str], Path]]:
        """Command lines, and the file that what each prints is appended to.

        Each is asked for when the one before has ended, well or not.
        """


AnyWork = TypeVar("AnyWork", bound=Work)


def run_all(
    tasks: Sequence[AnyWork], *, processes: int | None, through: str, say: Callable[[str], None]
) -> dict[AnyWork, str]:
    """Run what has not finished.

    Args:
        tasks: all of them.
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
        raise RunError(f"{needs('--through ray', 'ray')}, or leave the option out")
    left = [task for task in tasks if not task.finished]
    if len(left) < len(tasks):
        say(f"{len(tasks) - len(left)} of {len(tasks)} runs have finished before")
    if not left:
        return {}
    processes = processes or max(1, cores() // left[0].threads)
    started, failed = time.perf_counter(), {}
    for done, (task, trouble) in enumerate(
        (_by_ray if there and through != "processes" else _locally)(left, processes)
    ):
        if trouble is not None:
            failed[task] = trouble
        minutes = (time.perf_counter() - started) / 60
        outcome = "has finished" if trouble is None else f"FAILED ({trouble}), see {task.log}"
        say(f"{task.name} {outcome}; {done + 1} of {len(left)} after {minutes:.1f} minutes")
    return failed


def cores() -> int:
    """Cores that this process may use; where the system has no such notion (macOS, Windows), all that there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def refuse_failures(failed: Mapping[AnyWork, str], count: int) -> None:
    """End a sweep in which runs failed.

    Raises:
        RunError: there are any; says which.
    """
    if failed:
        which = "; ".join(f"{task.name}: {trouble}" for task, trouble in failed.items())
        raise RunError(f"{len(failed)} of {count} runs failed ({which}); give the command again to go on with them")


def _locally(tasks: Sequence[AnyWork], processes: int) -> Iterable[tuple[AnyWork, str | None]]:
    with ThreadPoolExecutor(processes) as pool:
        running = {pool.submit(run_one, task, {}): task for task in tasks}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _by_ray(tasks: Sequence[AnyWork], processes: int) -> Iterable[tuple[AnyWork, str | None]]:
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


def run_one(task: Work, environment: Mapping[str, str]) -> str | None:
    """All commands of one, each in a process of its own; what the first that failed ended with, if any did."""
    everything = {**os.environ, **environment, "OMP_NUM_THREADS": str(task.threads)}
    trouble = None
    for command, log in task.commands():
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            done = subprocess.run(command, check=False, stdout=file, stderr=subprocess.STDOUT, env=everything)
        if done.returncode and trouble is None:
            trouble = last_line(log) or f"exit status {done.returncode}"
    return trouble


def last_line(log: Path) -> str:
    """The last line of a log that says something, empty if none does."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""
