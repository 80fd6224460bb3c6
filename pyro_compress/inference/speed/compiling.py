"""Traced functions by inductor, where there is a C++ compiler: a few fused kernels for many small operations."""

import logging
import shutil
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, fx

from pyro_compress.errors import warn
from pyro_compress.inference.speed.convolution_gradients import (
    correlate_one_channel,
    keep_channels_last,
    sum_bias_gradients,
)
from pyro_compress.inference.speed.graph_passes import unscale_sums, untranspose

Function = Callable[..., tuple[Tensor, ...]]


def compiled(graph: fx.GraphModule, examples: tuple[Tensor, ...]) -> Function:
    """`graph` compiled for arguments like `examples`, or as it is, with a warning, where that cannot be done."""
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return _replayed(graph, "there is no C++ compiler")
    # its import looks for CUDA and logs that there is none, which is no news on a CPU
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # here, because it takes seconds to import, and because operators are registered
    import torch._inductor as inductor

    from pyro_compress.inference.speed.max_pooling import fuse_pooling, keep_pooling

    try:
        # what the graph draws comes from torch's generator, as where it is replayed
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            for change in (
                *(untranspose, unscale_sums),
                *(sum_bias_gradients, correlate_one_channel, keep_channels_last),
                *(fuse_pooling, keep_pooling),
            ):
                graph = change(graph)
            found: Function = inductor.compile(graph, list(examples), options={"fallback_random": True})
            found(*examples)
    except Exception as error:
        return _replayed(graph, f"the compiler failed: {str(error).strip().partition(chr(10))[0][:200]}")
    return found


def _replayed(graph: fx.GraphModule, reason: str) -> Function:
    warn(f"gradients are replayed and not compiled, which is slower ({reason})")
    return graph
