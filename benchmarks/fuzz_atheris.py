"""Coverage-guided fuzzing of the reader with atheris (`pip install pyro-compress[fuzz]`).

    python -m benchmarks.fuzz_atheris -max_total_time=300 CORPUS_FOLDER

Options are libFuzzer's.  Inputs are mutated as in `tests/artifact/fuzzing.py`, or by libFuzzer inside an intact
container; what must hold of each is `fuzzing.outcome`.
"""

import sys
from random import Random

import atheris

with atheris.instrument_imports(include=["pyro_compress.artifact"]):
    from pyro_compress.artifact.format import (  # noqa: F401
        codebook,
        coding,
        container,
        decode,
        decode_weights,
        header_reader,
        layout,
        pattern,
        stream,
        weight_names,
        weights_header,
    )

from pyro_compress.errors import ArtifactError
from tests.artifact import fuzzing

LONGEST = 400


def check(data: bytes) -> None:
    """One input."""
    fuzzing.outcome(data)


def mutate(data: bytes, longest: int, seed: int) -> bytes:
    """A neighbour of `data`: fields or raw bytes changed, or the body changed by libFuzzer and wrapped again."""
    random = Random(seed)
    try:
        decode_weights.decode_any(data)
        files: tuple[bytes, ...] = (data, *fuzzing.small_files())
    except ArtifactError:
        files = fuzzing.small_files()
    if random.random() < 0.5:
        return fuzzing.mutated(files, random)[0][:longest]
    try:
        body = container.unwrap(data)
    except ArtifactError:
        body = container.unwrap(files[-1])
    return fuzzing.wrapped(atheris.Mutate(body, LONGEST))[:longest]


def main() -> None:
    """Hand over to libFuzzer, which never returns."""
    atheris.Setup(sys.argv, check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
