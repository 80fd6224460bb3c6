"""Mutated compressed files by the million: what the reader answered, how long it took, how much memory, what it ran.

    python -m benchmarks.fuzz_decoder --count 1000000 --processes 2 --measured-every 200 --state fuzz.json
    python -m benchmarks.fuzz_decoder --coverage 4000        # only the lines of the reader that 4,000 inputs run

Mutation number i is made from (seed, i) alone, so every failure can be made again: `--only i` does, and shows the
traceback.  An interrupted run goes on from its state file.  Leaves with status 1 if anything failed.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from types import CodeType, FrameType, ModuleType
from typing import Any

from pyro_compress.artifact.format import (
    codebook,
    coding,
    decode,
    decode_weights,
    deviations,
    header_reader,
    layout,
    pattern,
    stream,
    weight_names,
    weights_header,
)
from pyro_compress.errors import ArtifactError
from tests.artifact import fuzzing

CHUNK = 500
ADDRESS_BYTES = 6 << 30
READER = (
    *(decode, header_reader, stream, pattern, coding, layout, deviations, codebook),
    *(decode_weights, weights_header, weight_names),
)


@dataclass
class Tally:
    """What a number of mutations gave."""

    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: {"raw": Counter(), "repaired": Counter()})
    failures: list[tuple[int, str]] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    largest: tuple[int, int] = (0, -1)
    chunks: int = 0
    seconds: float = 0.0

    def add(self, other: "Tally") -> None:
        """Count those of another chunk too."""
        for kind, counts in other.outcomes.items():
            self.outcomes[kind].update(counts)
        self.failures += other.failures
        self.slowest, self.largest = max(self.slowest, other.slowest), max(self.largest, other.largest)
        self.chunks += other.chunks
        self.seconds += other.seconds


def mutation(seed: int, index: int) -> tuple[bytes, bool]:
    """Input number `index`, and whether its container was repaired."""
    return fuzzing.mutated(fuzzing.small_files(), Random(seed << 40 | index))


def examine(seed: int, index: int, tally: Tally, measured_every: int) -> None:
    """Decode one input and count what came of it."""
    data, repaired = mutation(seed, index)
    start = time.process_time()
    try:
        found = fuzzing.outcome(data)
        assert repaired or found != fuzzing.ACCEPTED, "damaged bytes were accepted"
        tally.slowest = max(tally.slowest, (time.process_time() - start, index))
        if index % measured_every == 0:
            peak, stated = fuzzing.peak_bytes(data), fuzzing.stated_bytes(data)
            assert peak <= stated, f"decoding took {peak} bytes, {stated} are stated"
            tally.largest = max(tally.largest, (peak, index))
    except Exception as error:
        found = f"FAILED: {type(error).__name__}"
        tally.failures.append((index, f"{type(error).__name__}: {error}"))
    tally.outcomes["repaired" if repaired else "raw"][found] += 1


def chunk(seed: int, count: int, measured_every: int, number: int) -> Tally:
    """Inputs number · CHUNK to (number + 1) · CHUNK, those below `count`."""
    tally, start = Tally(chunks=1), time.process_time()
    for index in range(number * CHUNK, min(count, (number + 1) * CHUNK)):
        examine(seed, index, tally, measured_every)
    tally.seconds = time.process_time() - start
    return tally


def guard() -> None:
    """Limit the address space of a process, so that memory without bound fails here and not elsewhere."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))


def executable_lines(module: Any) -> set[int]:
    """The lines of a module's functions that hold code; `def` lines and the module's own ran at import."""
    top = compile(Path(module.__file__).read_text(), module.__file__, "exec")
    return {line for code in _functions(top) for _, _, line in code.co_lines() if line and line != code.co_firstlineno}


def _functions(code: CodeType) -> Iterator[CodeType]:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_flags & 2:  # CO_NEWLOCALS: a function, and not the body of a class
                yield inner
            yield from _functions(inner)


def _file_of(module: ModuleType) -> str:
    assert module.__file__ is not None
    return module.__file__


def coverage(seed: int, count: int) -> Iterator[str]:
    """Lines of the reader's functions that `count` mutated inputs run, as a table."""
    fuzzing.small_files()
    ran: dict[str, set[int]] = {_file_of(module): set() for module in READER}

    def local(frame: FrameType, _event: str, _argument: Any) -> Any:
        ran[frame.f_code.co_filename].add(frame.f_lineno)
        return local

    def trace(frame: FrameType, _event: str, _argument: Any) -> Any:
        return local if frame.f_code.co_filename in ran else None

    for index in range(count):
        data, _ = mutation(seed, index)
        sys.settrace(trace)
        try:
            decode_weights.decode_any(data)
        except ArtifactError:
            pass
        finally:
            sys.settrace(None)
    yield "| module | lines of functions | run | share | not run |"
    yield "| --- | --- | --- | --- | --- |"
    for module in READER:
        lines = executable_lines(module)
        missed = sorted(lines - ran[_file_of(module)])
        share = 1 - len(missed) / len(lines)
        name = module.__name__.rpartition(".")[2]
        yield f"| {name} | {len(lines)} | {len(lines) - len(missed)} | {share:.1%} | {', '.join(map(str, missed))} |"


def table(tally: Tally, measured_every: int) -> Iterator[str]:
    """The counts, most frequent first."""
    total = sum(sum(counts.values()) for counts in tally.outcomes.values())
    yield f"{total:,} mutated files in {tally.seconds:,.0f} seconds of processor time"
    yield "| answer | container repaired | raw bytes |"
    yield "| --- | --- | --- |"
    both = tally.outcomes["repaired"] + tally.outcomes["raw"]
    for answer, _ in both.most_common():
        yield f"| {answer} | {tally.outcomes['repaired'][answer]:,} | {tally.outcomes['raw'][answer]:,} |"
    yield f"slowest: {tally.slowest[0]:.2f} seconds (input {tally.slowest[1]})"
    peak, index = tally.largest
    yield f"largest peak of memory, every {measured_every}th input: {peak:,} bytes (input {index})"
    yield f"failures: {len(tally.failures)}"
    yield from (f"  input {index}: {message}" for index, message in tally.failures[:20])


def stored(path: Path, seed: int) -> Tally:
    """The state of an interrupted run, or a new one."""
    if not path.exists():
        return Tally()
    state = json.loads(path.read_text())
    if state.pop("seed") != seed:
        sys.exit(f"{path} is of another seed: name another state file")
    state["outcomes"] = {kind: Counter(counts) for kind, counts in state["outcomes"].items()}
    made: dict[str, Any] = {
        key: tuple(value) if key in ("slowest", "largest") else value for key, value in state.items()
    }
    return Tally(**made)


def main() -> None:
    """Parse the command line, run what is left to do, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--state", type=Path, help="where an interrupted run goes on from")
    parser.add_argument("--measured-every", type=int, default=20, help="of so many inputs, one peak of memory is taken")
    parser.add_argument("--only", type=int, help="one input, with its traceback")
    parser.add_argument("--coverage", type=int, help="lines that so many inputs run, instead of counts")
    given = parser.parse_args()
    if given.coverage:
        print("\n".join(coverage(given.seed, given.coverage)))
        return
    if given.only is not None:
        data, repaired = mutation(given.seed, given.only)
        print(f"{'repaired' if repaired else 'raw'}, {len(data)} bytes: {data.hex()}")
        print(fuzzing.outcome(data))
        return
    tally = stored(given.state, given.seed) if given.state else Tally()
    left = range(tally.chunks, -(-given.count // CHUNK))
    with multiprocessing.get_context("spawn").Pool(given.processes, guard) as pool:
        for part in pool.imap(partial(chunk, given.seed, given.count, given.measured_every), left):
            tally.add(part)
            if given.state:
                partial_file = given.state.with_suffix(".partial")
                partial_file.write_text(json.dumps({"seed": given.seed, **tally.__dict__}))
                os.replace(partial_file, given.state)
    print("\n".join(table(tally, given.measured_every)))
    sys.exit(bool(tally.failures))


if __name__ == "__main__":
    main()
