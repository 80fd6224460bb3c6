"""How far a normal guide is from the best of its family, from gradients of the log joint at its own draws.

At the maximum of the ELBO over N(μ, Σ), with g = ∇ log p(y, u), u ~ q:

    E g = 0,    E ∇g = −Σ⁻¹  (any covariance)    or    E ∂g_i/∂u_i = −1/σ_i²  (independent)

(Opper & Archambeau 2009).  A regression of g on u over draws of q estimates E g at μ and E ∇g at once, without noise
where the posterior is normal (Salimans & Knowles 2013).  One Newton step from there says where that maximum is, so a
fit that was stopped early, or whose learning rate was lowered to zero, cannot look as if it had converged.
"""

import math
from dataclasses import dataclass

import numpy as np

# more latent numbers than this, or fewer than 4 draws for each: coordinates one by one
MOST_DENSE = 200
FAMILIES = ("mean-field", "full-rank", "low-rank")


@dataclass(frozen=True)
class Distance:
    """Of a guide from the best of its family, a number per coordinate of unconstrained space, (D,).

    Attributes:
        shift: of the means, in sds of that best member; infinite where the log joint is not concave on average.
        shift_error: standard error of that.
        ratio: sd of the guide over that of the best member.
        posterior_ratio: sd of the guide over what the curvature says of the posterior, correlations included; None
            where coordinates were looked at one by one.
    """

    shift: np.ndarray
    shift_error: np.ndarray
    ratio: np.ndarray
    posterior_ratio: np.ndarray | None

    @property
    def worst(self) -> int:
        """The coordinate whose mean is farthest off beyond its error."""
        return int(np.argmax(np.abs(self.shift) - 2 * self.shift_error))


def distance(u: np.ndarray, gradient: np.ndarray, loc: np.ndarray, sd: np.ndarray, family: str) -> Distance:
    """See the head of this module.

    Args:
        u: draws of the guide in unconstrained space, (S, D).
        gradient: of the log joint there, (S, D).
        loc, sd: of the guide's marginals, (D,).
        family: 'mean-field', 'full-rank' or 'low-rank'.
    """
    z, scaled = (u - loc) / sd, gradient * sd
    dense = u.shape[1] <= MOST_DENSE and len(u) >= 4 * (u.shape[1] + 1)
    return _dense(z, scaled, family) if dense else _one_by_one(z, scaled)


def _dense(z: np.ndarray, scaled: np.ndarray, family: str) -> Distance:
    count, width = z.shape
    design = np.column_stack([np.ones(count), z])
    fitted, *_ = np.linalg.lstsq(design, scaled, rcond=None)
    left = scaled - design @ fitted
    slope, precision = fitted[0], -(fitted[1:] + fitted[1:].T) / 2
    values, vectors = np.linalg.eigh(precision)
    if not values[0] > 1e-7 * max(values[-1], 1e-300):
        nowhere = np.full(width, math.inf)
        return Distance(nowhere, np.zeros(width), np.ones(width), None)
    covariance = (vectors / values) @ vectors.T
    step = covariance @ slope
    noise = covariance @ (left.T @ left / max(1, count - width - 1)) @ covariance / count
    wide = np.sqrt(np.diag(covariance))
    if family == "full-rank":
        best = wide
    elif family == "mean-field":
        best = 1 / np.sqrt(np.diag(precision))
    else:
        # ∂ELBO/∂σ_i = 0 where E g_i (u_i − μ_i) = −1, whatever else the family holds
        best = 1 / np.sqrt(np.maximum(np.einsum("ij,ji->i", precision, np.corrcoef(z.T).reshape(width, width)), 1e-12))
    return Distance(step / best, np.sqrt(np.diag(noise)) / best, 1 / best, 1 / wide)


def _one_by_one(z: np.ndarray, scaled: np.ndarray) -> Distance:
    centred = z - z.mean(0)
    precision = -(centred * scaled).mean(0) / np.square(centred).mean(0)
    slope = scaled.mean(0) + precision * z.mean(0)
    left = scaled - slope + precision * z
    known = np.maximum(precision, 1e-12)
    shift, error = slope / np.sqrt(known), left.std(0) / math.sqrt(len(z)) / np.sqrt(known)
    return Distance(shift, error, np.sqrt(known), None)
