"""Batch-norm statistics after weights have changed."""

import torch
from torch import nn

from pyro_compress.data import DataSet

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def reestimate_batch_norm(network: nn.Module, data: DataSet, batch_size: int = 256, batches: int = 200) -> None:
    """Replace running means and variances by averages over training batches, in place.

    Pruning and rounding shift every layer's input, so statistics gathered before them are wrong afterwards.
    A network without batch norm is left alone.
    """
    norms = [module for module in network.modules() if isinstance(module, NORMS)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
    network.train()
    with torch.no_grad():
        for start in range(0, min(len(data.train_x), batch_size * batches), batch_size):
            network(data.train_x[start : start + batch_size])
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
