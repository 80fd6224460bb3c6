"""What the posterior says: moments, what to prune, how many bits, what is left."""

from typing import TYPE_CHECKING

from pyro_compress._lazy import lazy_names

if TYPE_CHECKING:
    from pyro_compress.analysis.arviz_export import to_arviz
    from pyro_compress.analysis.bits import bit_widths
    from pyro_compress.analysis.codebook import weight_sharing
    from pyro_compress.analysis.decision import Decision, SiteDecision
    from pyro_compress.analysis.diagnostics import diagnose
    from pyro_compress.analysis.importance import loo, psis_k_hat
    from pyro_compress.analysis.pruning import prune, signal_to_noise
    from pyro_compress.analysis.rates import description_length_bits, published_rates
    from pyro_compress.analysis.structure import architecture_left, remove_dead

_NAMES = {
    "bit_widths": "pyro_compress.analysis.bits",
    "Decision": "pyro_compress.analysis.decision",
    "SiteDecision": "pyro_compress.analysis.decision",
    "diagnose": "pyro_compress.analysis.diagnostics",
    "loo": "pyro_compress.analysis.importance",
    "psis_k_hat": "pyro_compress.analysis.importance",
    "prune": "pyro_compress.analysis.pruning",
    "signal_to_noise": "pyro_compress.analysis.pruning",
    "description_length_bits": "pyro_compress.analysis.rates",
    "published_rates": "pyro_compress.analysis.rates",
    "architecture_left": "pyro_compress.analysis.structure",
    "to_arviz": "pyro_compress.analysis.arviz_export",
    "remove_dead": "pyro_compress.analysis.structure",
    "weight_sharing": "pyro_compress.analysis.codebook",
}
__all__ = [
    "Decision",
    "SiteDecision",
    "architecture_left",
    "bit_widths",
    "description_length_bits",
    "diagnose",
    "loo",
    "prune",
    "psis_k_hat",
    "published_rates",
    "remove_dead",
    "signal_to_noise",
    "to_arviz",
    "weight_sharing",
]
__getattr__, __dir__ = lazy_names(__name__, _NAMES)
