"""The file that an interrupted fit goes on from: state, random state of every rank, history, and whose run it is."""

import errno
import re
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


def fingerprint_of(model: Model, feed: Feed, method: Method, seed: int) -> dict[str, str]:
    """What makes a run this run; a checkpoint of another is refused."""
    found = {
        "method": settings_text(method),
        "seed": str(seed),
        "data": f"{feed.name}, {feed.held} of N = {feed.size}",
    }
    if isinstance(model, Program):
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
        if found.get(key) != value:
            raise InferenceError(
                f"{path} belongs to another run: its {key} is {found.get(key)}, this run's is {value}; "
                "resume with the settings that it was started with"
            )
    return saved
