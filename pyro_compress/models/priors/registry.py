"""Priors by the names that zoo entries and the command line use."""

from pyro_compress.config.registry import Registry
from pyro_compress.errors import PriorError
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.entropy_penalised import EntropyPenalised
from pyro_compress.models.priors.generalized_dropout import GeneralizedDropout
from pyro_compress.models.priors.group_log_uniform import GroupLogUniform
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.l0 import L0
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.multi_spike import MultiSpike
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys
from pyro_compress.models.priors.scale_mixture import ScaleMixture
from pyro_compress.models.priors.soft_weight_sharing import SoftWeightSharing
from pyro_compress.models.priors.spike_and_slab import SpikeAndSlab
from pyro_compress.models.priors.structured_bayesian_pruning import StructuredBayesianPruning

PRIORS: Registry[Prior] = Registry(
    "prior",
    PriorError,
    "pyro_compress.priors",
    {
        "normal": Normal,
        "scale-mixture": ScaleMixture,
        "log-uniform": LogUniform,
        "group-normal-jeffreys": GroupNormalJeffreys,
        "group-log-uniform": GroupLogUniform,
        "group-horseshoe": GroupHorseshoe,
        "multi-spike": MultiSpike,
        "entropy-penalised": EntropyPenalised,
        "soft-weight-sharing": SoftWeightSharing,
        "structured-bayesian-pruning": StructuredBayesianPruning,
        "l0": L0,
        "generalized-dropout": GeneralizedDropout,
        "spike-and-slab": SpikeAndSlab,
    },
)
