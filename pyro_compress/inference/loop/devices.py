"""The device that a fit runs on: a sentence where it is not there, its random state, and a scope for both."""

import contextlib
from collections.abc import Iterator

import torch

from pyro_compress.errors import InferenceError

DEVICES = ("cpu", "cuda", "mps")


def device_named(name: str) -> torch.device:
    """The device of that name.

    Raises:
        InferenceError: no such name, or no such device on this machine.
    """
    if name.partition(":")[0] not in DEVICES:
        raise InferenceError(f"there is no device '{name}': known are {', '.join(DEVICES)}")
    kind = name.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    if kind == "cuda" and there and ":" in name:
        there = int(name.partition(":")[2]) < torch.cuda.device_count()
    if not there:
        raise InferenceError(
            f"this machine, or this build of torch {torch.__version__}, has no device '{name}': use --device cpu"
        )
    return torch.device(name)


@contextlib.contextmanager
def on_device(device: torch.device) -> Iterator[None]:
    """What makes new tensors makes them on `device`; torch's generators are put back at the end.

    On the CPU nothing is intercepted.
    """
    before = random_state(device)
    try:
        if device.type == "cpu":
            yield
        else:
            with device:
                yield
    finally:
        restore_random_state(before, device)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators that `random_state` reads, and no other: `torch.manual_seed` seeds those of every device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def random_state(device: torch.device) -> torch.Tensor:
    """State of the CPU's generator, followed by that of the device, as bytes."""
    parts = [torch.get_rng_state()]
    if device.type == "cuda":
        parts.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        parts.append(torch.mps.get_rng_state())
    return torch.cat([part.cpu() for part in parts])


def restore_random_state(state: torch.Tensor, device: torch.device) -> None:
    """Take over what `random_state` gave on a device of the same kind."""
    length = len(torch.get_rng_state())
    torch.set_rng_state(state[:length])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[length:], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state[length:])
