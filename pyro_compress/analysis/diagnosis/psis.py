"""Pareto-smoothed importance sampling: k-hat of a guide, leave-one-out; numpy, xarray and arviz alone."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from pyro_compress.analysis.diagnosis.arviz_versions import arviz, group, has_data_trees, has_group, pareto_smoothed
from pyro_compress.errors import InferenceError
from pyro_compress.posterior.families import FAMILIES
from pyro_compress.posterior.posterior import Latent

K_HAT_LIMIT = 0.7
LEAST_RATIOS = 25  # the Pareto tail is a fifth of the draws and needs five


def psis_k_hat(log_ratios: np.ndarray) -> float:
    """Shape k of the generalised Pareto tail of importance ratios p/q (Vehtari et al. 2024; Yao et al. 2018).

    Below 0.7 weighted means over draws of q can be trusted, and q is close to p; infinite where more than half of the
    draws have no density under p, 0 where the largest ratios are all equal and there is no tail.

    Args:
        log_ratios: log p(x, θ) − log q(θ) up to a constant at draws θ of q, (draws,); −∞ where p is zero.

    Raises:
        InferenceError: fewer than 25 ratios, or one that is NaN or +∞.
    """
    ratios = np.asarray(log_ratios, dtype=np.float64)
    if ratios.ndim != 1 or len(ratios) < LEAST_RATIOS:
        raise InferenceError(f"k-hat needs at least {LEAST_RATIOS} log ratios, (draws,), found shape {ratios.shape}")
    if np.isnan(ratios).any() or np.isposinf(ratios).any():
        raise InferenceError("log importance ratios hold NaN or +∞: the log joint or the guide's density overflows")
    finite = np.isfinite(ratios)
    if finite.mean() <= 0.5:
        return float("inf")
    highest = np.sort(ratios)[-max(5, math.ceil(min(0.2 * len(ratios), 3 * math.sqrt(len(ratios))))) :]
    if np.ptp(highest) < 1e-12:
        return 0.0
    # the tail that is fitted is a fifth of the draws at most: where the others lie does not matter
    _, shape = pareto_smoothed(np.where(finite, ratios, ratios[finite].min()))
    return shape


def guide_log_density(latents: Mapping[str, Latent], values: Mapping[str, np.ndarray]) -> np.ndarray:
    """log q(θ), (draws,) float64, of draws by site, each (draws, *shape), under a guide that has a density."""
    total = np.zeros(())
    for name, latent in latents.items():
        log_density = FAMILIES[latent.family].log_density
        assert log_density is not None
        loc, scale, x = (part.astype(np.float64) for part in (latent.loc, latent.scale, values[name]))
        total = total + log_density(loc, scale, x).reshape(len(x), -1).sum(1)
    return total


@dataclass(frozen=True)
class LeaveOneOut:
    """Expected log predictive density, in total nats over the examples.

    Attributes:
        elpd_nats, standard_error_nats: PSIS-LOO (Vehtari et al. 2017); larger is better.
        effective_parameters: p_loo.
        examples: how many.
        unreliable: those whose Pareto k-hat is above 0.7.
        waic_nats: elpd by WAIC, where the installed ArviZ has it.
    """

    elpd_nats: float
    standard_error_nats: float
    effective_parameters: float
    examples: int
    unreliable: int
    waic_nats: float | None = None


def loo(idata: Any, variable: str | None = None) -> LeaveOneOut:
    """Leave-one-out cross-validation of an export with pointwise log-likelihoods.

    Args:
        idata: what `to_arviz(..., log_likelihood={...})` gave.
        variable: observed variable; may be left out if there is one.

    Raises:
        InferenceError: there are no log-likelihoods, or several variables.
    """
    if not has_group(idata, "log_likelihood"):
        raise InferenceError("LOO needs pointwise log-likelihoods: export them with to_arviz(log_likelihood={...})")
    found = group(idata, "log_likelihood")
    names = [str(name) for name in found.data_vars]
    if variable is None and len(names) > 1:
        raise InferenceError(f"there are log-likelihoods of {', '.join(names)}: name one")
    name = names[0] if variable is None else variable
    az, efficiency = arviz(), _relative_efficiency(idata, found[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large k-hats are counted in `unreliable`
        result = az.loo(idata, pointwise=True, var_name=name, reff=efficiency)
        waic = float(az.waic(idata, var_name=name).elpd_waic) if hasattr(az, "waic") else None
    tree = has_data_trees()
    return LeaveOneOut(
        elpd_nats=float(result.elpd if tree else result.elpd_loo),
        standard_error_nats=float(result.se),
        effective_parameters=float(result.p if tree else result.p_loo),
        examples=int(result.n_data_points),
        unreliable=int((np.asarray(result.pareto_k) > K_HAT_LIMIT).sum()),
        waic_nats=waic,
    )


def _relative_efficiency(idata: Any, log_likelihood: xr.DataArray) -> float:
    """Effective share of the draws, from the total log-likelihood; 1 for independent draws."""
    total = log_likelihood.astype(np.float64).sum([d for d in log_likelihood.dims if d not in ("chain", "draw")])
    count = total.sizes["chain"] * total.sizes["draw"]
    if group(idata, "posterior").attrs.get("draws_are") != "chains" or total.sizes["draw"] < 4:
        return 1.0
    effective = float(arviz().ess(total.to_dataset(name="x"), method="mean")["x"])
    return min(1.0, effective / count) if np.isfinite(effective) else 1.0
