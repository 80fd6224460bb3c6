"""Bayesian neural network compression on Pyro: from a declared prior to a file that really is that small.

The public names, each imported when it is first used: `import pyro_compress` alone loads no torch.
"""

from typing import TYPE_CHECKING

from pyro_compress._lazy import lazy_names

if TYPE_CHECKING:
    from pyro_compress import analysis, data, errors, inference, models
    from pyro_compress.artifact.writing.artifact import Artifact, load
    from pyro_compress.data.dataset import DataSet
    from pyro_compress.models.bayesian import BayesianNetwork
    from pyro_compress.models.generative.semi_supervised import SemiSupervisedVAE
    from pyro_compress.models.generative.vae import VAE
    from pyro_compress.pipeline.compressing import compress
    from pyro_compress.pipeline.coupled import coupled_channels
    from pyro_compress.pipeline.decision_settings import DecisionSettings
    from pyro_compress.pipeline.evaluation import evaluate
    from pyro_compress.pipeline.evidence import evidence
    from pyro_compress.pipeline.fitting import fit
    from pyro_compress.pipeline.flagging import diagnose
    from pyro_compress.pipeline.generating import generate
    from pyro_compress.pipeline.packing import pack, unpack
    from pyro_compress.pipeline.scoring import score
    from pyro_compress.pipeline.search import decide
    from pyro_compress.pipeline.teachers import with_teacher
    from pyro_compress.posterior.posterior import Posterior

__version__ = "0.1.0"

_NAMES = {
    "analysis": "pyro_compress.analysis",
    "data": "pyro_compress.data",
    "errors": "pyro_compress.errors",
    "inference": "pyro_compress.inference",
    "models": "pyro_compress.models",
    "Artifact": "pyro_compress.artifact.writing.artifact",
    "load": "pyro_compress.artifact.writing.artifact",
    "DataSet": "pyro_compress.data.dataset",
    "diagnose": "pyro_compress.pipeline.flagging",
    "fit": "pyro_compress.pipeline.fitting",
    "BayesianNetwork": "pyro_compress.models.bayesian",
    "SemiSupervisedVAE": "pyro_compress.models.generative.semi_supervised",
    "VAE": "pyro_compress.models.generative.vae",
    "DecisionSettings": "pyro_compress.pipeline.decision_settings",
    "decide": "pyro_compress.pipeline.search",
    "evaluate": "pyro_compress.pipeline.evaluation",
    "evidence": "pyro_compress.pipeline.evidence",
    "compress": "pyro_compress.pipeline.compressing",
    "generate": "pyro_compress.pipeline.generating",
    "pack": "pyro_compress.pipeline.packing",
    "unpack": "pyro_compress.pipeline.packing",
    "score": "pyro_compress.pipeline.scoring",
    "coupled_channels": "pyro_compress.pipeline.coupled",
    "Posterior": "pyro_compress.posterior.posterior",
    "with_teacher": "pyro_compress.pipeline.teachers",
}
__all__ = [
    "VAE",
    "Artifact",
    "BayesianNetwork",
    "DataSet",
    "DecisionSettings",
    "Posterior",
    "SemiSupervisedVAE",
    "__version__",
    "analysis",
    "compress",
    "coupled_channels",
    "data",
    "decide",
    "diagnose",
    "errors",
    "evaluate",
    "evidence",
    "fit",
    "generate",
    "inference",
    "load",
    "models",
    "pack",
    "score",
    "unpack",
    "with_teacher",
]
__getattr__, __dir__ = lazy_names(__name__, _NAMES)
