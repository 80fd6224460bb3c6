"""One thread at a time, with gradients: what runs Pyro or draws from torch's generator shares both with its process."""

import contextlib
import threading
from collections.abc import Iterator

import torch

# re-entrant: a callback of a fit may fit
_TURN = threading.RLock()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within it this thread has Pyro's stack of handlers and torch's generator to itself among those that ask here.

    Threads take turns, so that each gets the numbers that it gets by itself.  Gradients are recorded and nothing is
    cast by itself, whatever `torch.no_grad`, `torch.inference_mode` or `torch.autocast` surrounds the caller.  May
    decorate a function.
    """
    with _TURN, torch.inference_mode(False), torch.enable_grad(), contextlib.ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def own(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or a copy that autograd may record, of one that was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor
