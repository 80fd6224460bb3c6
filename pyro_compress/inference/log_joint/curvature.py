"""Second derivatives of the log joint at a point in unconstrained space, by differentiating its gradient."""

import torch
from torch import Tensor

from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.loop.feed import Batch

ITERATIONS = 30
MOST_DENSE = 200


def newton_step(log_joint: LogJoint, u: Tensor, batch: Batch, *, jacobian: bool) -> tuple[Tensor, Tensor] | None:
    """(H⁻¹ g, sds √diag H⁻¹), (D,) each, with H = −∇² log p; None where H is not positive definite.

    Args:
        log_joint: of up to `MOST_DENSE` latent numbers.
        u: (D,).
        batch: all the data.
        jacobian: whether log p holds log |dθ/du|.
    """
    precision, gradient = precision_at(log_joint, u, batch, jacobian=jacobian)
    values, vectors = torch.linalg.eigh(precision)
    if not bool(torch.isfinite(values).all()) or not float(values[0]) > 1e-7 * float(values[-1]):
        return None
    inverse = (vectors / values) @ vectors.T
    return inverse @ gradient, inverse.diagonal().sqrt()


def precision_at(log_joint: LogJoint, u: Tensor, batch: Batch, *, jacobian: bool) -> tuple[Tensor, Tensor]:
    """(H, g), (D, D) and (D,) in float64, of the same arguments as `newton_step`."""
    leaf, gradient = _gradient(log_joint, u, batch, jacobian)
    rows = [torch.autograd.grad(one, leaf, retain_graph=True, allow_unused=True)[0] for one in gradient]
    hessian = torch.stack([torch.zeros_like(leaf) if row is None else row for row in rows]).double()
    return -(hessian + hessian.T) / 2, gradient.detach().double()


def largest_curvature(log_joint: LogJoint, u: Tensor, batch: Batch, scale: Tensor) -> float:
    """Largest eigenvalue of S^½ H S^½, H = −∇² log p(y, u) and S diagonal, by power iteration; 0 if none is positive.

    Args:
        log_joint: see above.
        u: (D,).
        batch: all the data.
        scale: diagonal of S, (D,).
    """
    leaf, gradient = _gradient(log_joint, u, batch, True)
    root, latent = scale.sqrt(), log_joint.latents
    direction = torch.ones_like(leaf) + 0.1 * torch.linspace(-1, 1, len(leaf))
    # point estimates take no noise, so that their curvature says nothing of draws
    keep = torch.zeros_like(leaf)
    keep[latent] = 1.0
    direction, largest, shift = keep * direction, 0.0, 0.0
    for iteration in range(2 * ITERATIONS):
        direction = direction / direction.norm().clamp(min=1e-30)
        product = torch.autograd.grad(gradient, leaf, root * direction, retain_graph=True)[0]
        product = -keep * root * product
        largest = float(direction @ product)
        if iteration == ITERATIONS - 1:
            if largest >= 0:
                break
            # the eigenvalue of largest size is negative: look from there for the largest
            shift, direction = largest, keep * torch.linspace(1, 2, len(leaf))
            continue
        direction = product - shift * direction
    return max(0.0, largest)


def _gradient(log_joint: LogJoint, u: Tensor, batch: Batch, jacobian: bool) -> tuple[Tensor, Tensor]:
    leaf = u.detach().clone().requires_grad_()
    value, (data, prior) = log_joint.terms(leaf, *batch)
    gradient = torch.autograd.grad(value if jacobian else data + prior, leaf, create_graph=True)[0]
    return leaf, gradient
