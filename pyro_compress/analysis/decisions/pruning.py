"""Which weights go: decisions from dropout rates, group statistics and signal-to-noise ratios."""

import numpy as np

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.errors import DecisionError
from pyro_compress.posterior import criterion
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior


def signal_to_noise(site: ParameterPosterior) -> np.ndarray:
    """|E w| / sd(w), float64, of the site's shape; ∞ for point estimates (Graves 2011; Blundell et al. 2015)."""
    return criterion.signal_to_noise(site.mean, site.variance)


def prune(
    posterior: Posterior,
    *,
    group_threshold: float | None = None,
    log_alpha: float | None = None,
    snr: float | None = None,
    remove_percent: float | None = None,
) -> Decision:
    """Zero bits for every weight that the posterior calls noise.

    Args:
        group_threshold: cut on the statistic of groups (log α, or Var(ln z)); the prior's own if not given.
        log_alpha: cut on log α per weight, in place of what the prior says of single weights; none if not given.
        snr: prune weights with |μ|/σ below this.
        remove_percent: prune this share of all weights, those of lowest |μ|/σ over all layers.

    Raises:
        DecisionError: remove_percent outside [0, 100).
    """
    if remove_percent is not None and not 0 <= remove_percent < 100:
        raise DecisionError(f"remove_percent must lie in [0, 100), found {remove_percent}")
    cut = _percentile_cut(posterior, remove_percent) if remove_percent is not None else snr
    sites = {}
    for name, site in posterior.parameters.items():
        kept = site.kept(group_threshold, log_alpha)
        if cut is not None and site.mean.ndim > 1 and not site.is_point:
            kept &= signal_to_noise(site) >= cut
        bits = np.where(kept, FLOAT_BITS, 0).astype(np.uint8)
        sites[name] = SiteDecision.of(site, bits)
    settings = {
        "group_threshold": group_threshold,
        "log_alpha": log_alpha,
        "snr": None if cut is None else float(cut),
        "remove_percent": remove_percent,
    }
    return Decision(sites, dict(posterior.buffers), {k: v for k, v in settings.items() if v is not None})


def _percentile_cut(posterior: Posterior, remove_percent: float) -> float:
    """The SNR below which `remove_percent` of all weights lie."""
    weights = [site for site in posterior.parameters.values() if site.mean.ndim > 1 and not site.is_point]
    if not weights:
        raise DecisionError("a point estimate has no signal-to-noise ratio to prune by: fit with SVI(...) instead")
    # what a method took out goes before anything else does
    ratios = np.concatenate([np.where(site.kept_by_method(), signal_to_noise(site), 0.0).ravel() for site in weights])
    return float(np.quantile(ratios, remove_percent / 100.0))
