"""What the posterior says: moments, what to prune, how many bits, what is left."""

from typing import TYPE_CHECKING

from pyro_compress._lazy import lazy_names

if TYPE_CHECKING:
    from pyro_compress.analysis.decisions.affine import affine_quantization
    from pyro_compress.analysis.decisions.bits import bit_widths
    from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
    from pyro_compress.analysis.decisions.pruning import prune, signal_to_noise
    from pyro_compress.analysis.decisions.rates import description_length_bits, published_rates
    from pyro_compress.analysis.decisions.structure import remove_dead
    from pyro_compress.analysis.decisions.weight_sharing import weight_sharing
    from pyro_compress.analysis.diagnosis.arviz_export import to_arviz
    from pyro_compress.analysis.diagnosis.diagnostics import diagnose
    from pyro_compress.analysis.diagnosis.psis import loo, psis_k_hat
    from pyro_compress.network.quantizers import Affine, Codebook, PerChannel, Uniform
    from pyro_compress.network.stored import architecture_left

_NAMES = {
    "Affine": "pyro_compress.network.quantizers",
    "Codebook": "pyro_compress.network.quantizers",
    "PerChannel": "pyro_compress.network.quantizers",
    "Uniform": "pyro_compress.network.quantizers",
    "affine_quantization": "pyro_compress.analysis.decisions.affine",
    "bit_widths": "pyro_compress.analysis.decisions.bits",
    "Decision": "pyro_compress.analysis.decisions.decision",
    "SiteDecision": "pyro_compress.analysis.decisions.decision",
    "diagnose": "pyro_compress.analysis.diagnosis.diagnostics",
    "loo": "pyro_compress.analysis.diagnosis.psis",
    "psis_k_hat": "pyro_compress.analysis.diagnosis.psis",
    "prune": "pyro_compress.analysis.decisions.pruning",
    "signal_to_noise": "pyro_compress.analysis.decisions.pruning",
    "description_length_bits": "pyro_compress.analysis.decisions.rates",
    "published_rates": "pyro_compress.analysis.decisions.rates",
    "architecture_left": "pyro_compress.network.stored",
    "to_arviz": "pyro_compress.analysis.diagnosis.arviz_export",
    "remove_dead": "pyro_compress.analysis.decisions.structure",
    "weight_sharing": "pyro_compress.analysis.decisions.weight_sharing",
}
__all__ = [
    "Affine",
    "Codebook",
    "Decision",
    "PerChannel",
    "SiteDecision",
    "Uniform",
    "affine_quantization",
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
