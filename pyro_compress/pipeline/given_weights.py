"""Weights that a run begins with: a file of them, or what another run decided to store."""

from pathlib import Path

import torch
from torch import nn

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.errors import RunError
from pyro_compress.models.networks import load_weights, take_over
from pyro_compress.pipeline.run_directory import RunDirectory


def give_weights(network: nn.Module, path: Path) -> None:
    """Copy them into a network, all of them or none.

    Args:
        network: whose parameters and buffers are written into.
        path: a state dict (see `models.networks.load_weights`), or a run directory of the same network, of which what
            its file stores is taken, in the network's own shape: zero where it was pruned.

    Raises:
        NetworkError: they cannot be read or do not fit.
        RunError: the run has decided nothing yet.
    """
    if not path.is_dir():
        load_weights(network, path)
        return
    run = RunDirectory(path)
    if not run.stored_decision.exists():
        raise RunError(
            f"weights {path} are a folder without {run.decision.name}: give a run directory whose posterior has been "
            "analysed, or a file of weights"
        )
    decision = Decision.load(run.stored_decision)
    held = {name: site.stored() for name, site in decision.sites.items()} | dict(decision.buffers)
    take_over(network, {name: torch.tensor(values) for name, values in held.items()}, f"weights {path}", "the run")
