"""How noisy the gradients of a variational method are: what tells its estimators apart, all of which are unbiased."""

from collections.abc import Mapping

import torch

from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.variational.base import VariationalMethod
from pyro_compress.inference.variational.state import VariationalState


def gradient_variance(
    method: VariationalMethod, state: VariationalState, batch: Batch, draws: int
) -> Mapping[str, float]:
    """Variance of the gradient of the objective per example at a fixed batch, which is due to sampled weights alone.

    Var_w ∂/∂θ [−(1/n) Σ_i log p(y_i | x_i, w) + β/N KL], estimated from `draws` gradients and summed over the
    parameters θ of one kind.

    Args:
        method: whose β is `kl_weight`.
        state: where; left as it is.
        batch: of n examples.
        draws: gradients taken; at least 2.

    Returns:
        The sums for the guide's 'loc' and 'log_variance'.
    """
    kinds = {kind: list(getattr(state.guide, kind).parameters()) for kind in ("loc", "log_variance")}
    targets = [parameter for held in kinds.values() for parameter in held]
    mean, squares = [torch.zeros_like(p) for p in targets], [torch.zeros_like(p) for p in targets]
    for count in range(1, draws + 1):
        loss = method.objective(state, batch, method.terms(state, batch), method.kl_weight) / state.size
        for gradient, m, s in zip(torch.autograd.grad(loss, targets), mean, squares, strict=True):
            change = gradient - m
            m.add_(change / count)
            s.addcmul_(change, gradient - m)
    sums = iter([float(s.sum()) / (draws - 1) for s in squares])
    return {kind: sum(next(sums) for _ in held) for kind, held in kinds.items()}
