"""Networks drawn from the posterior that a compressed file keeps: w + σ ε for every stored weight, ε ~ N(0, 1)."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.errors import ArtifactError
from pyro_compress.network.stored import StoredNetwork, StoredTensor, tied_weights


def sample(network: StoredNetwork, generator: torch.Generator) -> nn.Sequential:
    """One draw as a torch module in evaluation mode; what the file has no deviations of is as stored.

    Raises:
        ArtifactError: the file keeps no deviations.
    """
    if not network.deviations:
        raise ArtifactError(
            "the file keeps no standard deviations to draw with: write it with `pyro-compress compress RUN "
            "--keep-deviations` or pc.compress(..., keep_deviations=True)"
        )
    drawn, tied = dict(network.tensors), tied_weights(network)
    for name, exponent in network.deviations.items():
        if name in tied:
            drawn[name] = drawn[tied[name]].reshaped(drawn[name].shape)
            continue
        stored = network.tensors[name].dense()
        noise = torch.randn(stored.shape, generator=generator).numpy()
        scale = np.where(stored != 0, np.ldexp(np.float32(1), exponent.astype(np.int32)), np.float32(0))
        drawn[name] = StoredTensor(floats=(stored + scale * noise).astype(np.float32))
    return to_torch(replace(network, tensors=drawn, deviations={}))
