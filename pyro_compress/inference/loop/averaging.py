"""The mean of the last iterates in place of the very last one (Polyak & Juditsky 1992)."""

from collections.abc import Sequence

import torch


def average_last(
    averages: list[torch.Tensor], iterates: Sequence[torch.Tensor], *, done: int, planned: int, share: float
) -> bool:
    """Take the iterates after step `done` of `planned` into their means over the last `share` of the steps.

    `averages` holds the means and is changed; it is empty before the first of these steps.  After the last step the
    means are written into `iterates`, and the answer is True.
    """
    taken = done - planned + round(share * planned)
    if taken < 1 or done > planned:
        return False
    if taken == 1:
        averages[:] = [tensor.detach().clone() for tensor in iterates]
    torch._foreach_lerp_(averages, [tensor.detach() for tensor in iterates], 1 / taken)
    if done < planned:
        return False
    torch._foreach_copy_([tensor.detach() for tensor in iterates], averages)
    return True
