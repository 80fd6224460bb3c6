"""The file that an interrupted fit goes on from: state, random state of every rank, history, and whose run it is."""

import errno
import re
import zlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pyro_compress.errors import InferenceError
from pyro_compress.files import replacing
from pyro_compress.inference.contract import Method, Model, State
from pyro_compress.inference.loop.feed import Feed
from pyro_compress.inference.loop.records import EpochRecord
from pyro_compress.models.program import Program

# of more numbers than that, rows are read here and there
NUMBERS_READ = 2**24
# what checkpoints that were written before it was noted lack
NOTED_LATER = frozenset({"numbers", "constants"})


def draws_beside(checkpoint: Path) -> Path:
    """The folder of a sampler's draws; no posterior that is saved has one of that name."""
    return checkpoint.with_name(f"{checkpoint.name}.draws")


def fingerprint_of(model: Model, feed: Feed, method: Method, seed: int) -> dict[str, str]:
    """What makes a run this run; a checkpoint of another is refused."""
    found = {
        "method": settings_text(method),
        "seed": str(seed),
        "data": f"{feed.name}, {feed.held} of N = {feed.size}",
        "numbers": f"{_checksum(feed.tensors):08x}",
    }
    if isinstance(model, Program):
        leaves = () if feed.call is None else feed.call.leaves
        found["constants"] = ", ".join(repr(leaf) for leaf in leaves if isinstance(leaf, int | float | str))
        sites = ", ".join(f"{name} {tuple(fn.shape())}" for name, fn in model.sites.items())
        return found | {"model": f"{model.name}: {sites}"}
    if len(feed.tensors) > 2 or feed.ask is not None:
        found["teacher"] = str(model.teaching)
    shapes = (f"{name} {tuple(tensor.shape)}" for name, tensor in model.network.named_parameters())
    return found | {
        "prior": repr(model.prior),
        "likelihood": repr(model.likelihood),
        "network": ", ".join(shapes),
        **model.own_settings(),
    }


def _checksum(tensors: Iterable[torch.Tensor]) -> int:
    """CRC-32 of all numbers, or of `NUMBERS_READ` of them where they are more."""
    found = 0
    for tensor in tensors:
        if tensor.layout != torch.strided:
            continue
        rows = tensor[:: 1 + tensor.numel() // NUMBERS_READ] if tensor.ndim else tensor
        found = zlib.crc32(rows.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def settings_text(method: Method) -> str:
    """The method with its settings, the same in every process."""
    # a function's address says nothing and differs in every process
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(method))


def save_checkpoint(
    path: Path, state: State, ranks: list[dict[str, Any]], fingerprint: dict[str, str], history: list[EpochRecord]
) -> None:
    """Write the checkpoint; an interruption leaves the old one or the new one.

    Args:
        path: of the file.
        state: of the method, the same on every rank.
        ranks: of each, 'random' (state of torch's generators) and 'state' (what of the state is its own).
        fingerprint: of the run.
        history: of all rounds so far.
    """
    held = {
        "state": state.capture(),
        "ranks": ranks,
        "history": [asdict(record) for record in history],
        "fingerprint": fingerprint,
    }
    with replacing(path) as file:
        try:
            torch.save(held, file)
        except RuntimeError as error:
            # torch's writer has its own words for a file that takes no more
            raise OSError(errno.ENOSPC, f"the checkpoint {path} cannot be written, is the disk full?") from error


def read_checkpoint(path: Path, fingerprint: dict[str, str]) -> dict[str, Any]:
    """The checkpoint of this very run, with its tensors on the CPU.

    Raises:
        InferenceError: it is damaged, or belongs to another run.
    """
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = dict(saved["fingerprint"])
    except Exception as error:
        raise InferenceError(
            f"{path} cannot be resumed from: it is damaged or no checkpoint ({type(error).__name__}); remove it to "
            "start afresh"
        ) from error
    for key, value in fingerprint.items():
        if found.get(key, value if key in NOTED_LATER else None) != value:
            raise InferenceError(
                f"{path} belongs to another run: its {key} is {found.get(key)}, this run's is {value}; "
                "resume with the settings that it was started with"
            )
    return saved
