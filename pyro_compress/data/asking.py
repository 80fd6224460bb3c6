"""Teachers that are asked about every batch, since inputs are others each time that they are seen.

A teacher that has seen the inputs as they are says nothing of what augmentation makes of them.  Asked about the very
views that its student gets, it teaches better, the longer the more (Beyer et al. 2022, 'a good teacher is patient and
consistent').
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

# ask(inputs, *stream) are a teacher's outputs; where it draws, the draws depend on the numbers of the stream alone
Ask: TypeAlias = Callable[..., Tensor]


def asked(ask: Ask, x: Tensor, *stream: int) -> Tensor:
    """What a teacher says of inputs, (examples, ...): float32, and where they are."""
    return ask(x, *stream).to(x.device, torch.float32)
