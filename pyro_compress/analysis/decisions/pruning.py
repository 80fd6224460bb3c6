"""Which weights go: decisions from dropout rates, group statistics, signal-to-noise ratios and magnitudes."""

import numpy as np

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.errors import DecisionError, unknown_name
from pyro_compress.posterior import criterion
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior

SNR, MAGNITUDE = RANK_BY = ("snr", "magnitude")
NETWORK, LAYER = RANK_OVER = ("network", "layer")


def signal_to_noise(site: ParameterPosterior) -> np.ndarray:
    """|E w| / sd(w), float64, of the site's shape; ∞ for point estimates (Graves 2011; Blundell et al. 2015)."""
    return criterion.signal_to_noise(site.mean, site.variance)


def magnitude(site: ParameterPosterior) -> np.ndarray:
    """|w| of the value to store, float64, of the site's shape (Han et al. 2015)."""
    return np.abs(site.to_store.astype(np.float64))


def prune(
    posterior: Posterior,
    *,
    group_threshold: float | None = None,
    log_alpha: float | None = None,
    snr: float | None = None,
    remove_percent: float | None = None,
    by: str | None = None,
    over: str = NETWORK,
) -> Decision:
    """Zero bits for every weight that the posterior calls noise, or for a share of all weights.

    Args:
        group_threshold: cut on the statistic of groups (log α, or Var(ln z)); the prior's own if not given.
        log_alpha: cut on log α per weight, in place of what the prior says of single weights; none if not given.
        snr: prune weights with |μ|/σ below this.
        remove_percent: prune this share of the weights, those that rank lowest.
        by: 'snr' ranks weights that have a variance by |μ|/σ, 'magnitude' all but frozen ones by |w|.  If not given,
            'snr', or 'magnitude' where no ratio tells weights apart: those of point estimates are infinite, those of
            dropout all the same.
        over: 'network' takes that share of all layers together, 'layer' of each.

    Raises:
        DecisionError: remove_percent outside [0, 100), unknown words, or nothing to rank.
    """
    check_ranking(remove_percent, by, over)
    made_by: dict[str, object] = {"group_threshold": group_threshold, "log_alpha": log_alpha, "snr": snr}
    goes: dict[str, np.ndarray] = {}
    if remove_percent is not None:
        goes, how = _lowest(posterior, remove_percent, by, over)
        made_by |= how
    elif snr is not None:
        sites = _weights(posterior).items()
        goes = {name: signal_to_noise(site) < snr for name, site in sites if not site.is_point}
    decided = {}
    for name, site in posterior.parameters.items():
        kept = site.kept(group_threshold, log_alpha) & ~goes.get(name, np.False_)
        decided[name] = SiteDecision.of(site, np.where(kept, FLOAT_BITS, 0).astype(np.uint8))
    return Decision(decided, dict(posterior.buffers), {k: v for k, v in made_by.items() if v is not None})


def check_ranking(
    remove_percent: float | None, by: str | None, over: str, *, names: tuple[str, str] = ("by", "over")
) -> None:
    """Refuse what `prune` cannot honour; `names` is what its `by` and `over` are called where they were given."""
    if remove_percent is not None and not 0 <= remove_percent < 100:
        raise DecisionError(f"remove_percent must lie in [0, 100), found {remove_percent}")
    for name, word, known in zip(names, (by or SNR, over), (RANK_BY, RANK_OVER), strict=True):
        if word not in known:
            raise DecisionError(unknown_name(f"word for {name}", word, known))
    if remove_percent is None and (by is not None or over != NETWORK):
        raise DecisionError(f"{' and '.join(names)} say which weights remove_percent takes: give remove_percent too")


def _weights(posterior: Posterior) -> dict[str, ParameterPosterior]:
    return {name: site for name, site in posterior.parameters.items() if site.mean.ndim > 1}


def _lowest(
    posterior: Posterior, remove_percent: float, by: str | None, over: str
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Boolean by name, which weights are the lowest, and how that was decided; what a method took out goes first."""
    weights = _weights(posterior)
    with_ratio = {name: site for name, site in weights.items() if site.has_ratio}
    by = by or (SNR if with_ratio else MAGNITUDE)
    ranked = with_ratio if by == SNR else {name: site for name, site in weights.items() if not site.is_frozen}
    if not ranked:
        raise DecisionError(
            "no weight has a signal-to-noise ratio that tells it from others (those of point estimates are infinite, "
            "those of dropout all the same): prune by magnitude, or fit with SVI(...)"
            if by == SNR
            else "remove_percent takes weights of dense layers and convolutions, and here is none that may go"
        )
    rank = signal_to_noise if by == SNR else magnitude
    # quantiles between two infinite ratios would be NaN, and nothing is below that
    highest = np.finfo(np.float64).max
    ranks = {name: np.where(site.kept_by_method(), rank(site).clip(max=highest), 0.0) for name, site in ranked.items()}
    together = np.concatenate([each.ravel() for each in ranks.values()])
    cut = float(np.quantile(together, remove_percent / 100.0))
    cuts = {name: cut if over == NETWORK else np.quantile(each, remove_percent / 100.0) for name, each in ranks.items()}
    goes = {name: each < cuts[name] for name, each in ranks.items()}
    if by == MAGNITUDE:
        # what is zero is gone already, however many there are
        goes = {name: each | (ranks[name] == 0) for name, each in goes.items()}
    how: dict[str, object] = {"snr": cut if (by, over) == (SNR, NETWORK) else None, "remove_percent": remove_percent}
    how |= {"removed_by": by} if by != SNR else {}
    how |= {"removed_over": over} if over != NETWORK else {}
    return goes, how
