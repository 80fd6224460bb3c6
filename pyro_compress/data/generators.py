"""Streams of random numbers, each of some whole numbers alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator_for(*numbers: int) -> torch.Generator:
    """A CPU generator whose stream depends on these numbers and their order alone, for example (seed, epoch).

    The numbers are hashed (numpy's SeedSequence), so that (0, 1) and (1, 0), or neighbouring seeds and
    epochs, give unrelated streams.
    """
    return torch.Generator().manual_seed(seed_of(*numbers))


def seed_of(*numbers: int) -> int:
    """A seed below 2⁶⁴ that depends on these numbers and their order alone."""
    state = np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(1, np.uint64)
    return int(state[0])


@contextmanager
def noise_of(seed: int, device: torch.device) -> Iterator[None]:
    """Within it torch draws what this seed gives; afterwards its generators are where they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
