"""How beliefs change: inference methods under one contract; `pyro_compress.fit` runs any of them."""

from typing import TYPE_CHECKING

from pyro_compress._lazy import lazy_names

if TYPE_CHECKING:
    from pyro_compress.inference.approximate_metropolis import ApproximateMetropolis
    from pyro_compress.inference.bayes_by_backprop import BayesByBackprop
    from pyro_compress.inference.contract import Info, Method, State
    from pyro_compress.inference.cyclical import CyclicalSGHMC, CyclicalSGLD
    from pyro_compress.inference.dropout import Dropout, MCDropout
    from pyro_compress.inference.fit import EpochRecord
    from pyro_compress.inference.flipout import Flipout
    from pyro_compress.inference.hmc import HMC
    from pyro_compress.inference.importance import ImportanceSampling
    from pyro_compress.inference.local_reparameterization import LocalReparameterization
    from pyro_compress.inference.log_joint import LogJoint
    from pyro_compress.inference.metropolis import Metropolis
    from pyro_compress.inference.nuts import NUTS
    from pyro_compress.inference.point import MAP
    from pyro_compress.inference.predictive import predictive_mean
    from pyro_compress.inference.psgld import PreconditionedSGLD
    from pyro_compress.inference.rejection import RejectionSampling
    from pyro_compress.inference.score_function import ScoreFunction
    from pyro_compress.inference.sghmc import SGHMC
    from pyro_compress.inference.sgld import SGLD
    from pyro_compress.inference.svi import SVI

_NAMES = {
    "ApproximateMetropolis": "pyro_compress.inference.approximate_metropolis",
    "BayesByBackprop": "pyro_compress.inference.bayes_by_backprop",
    "Info": "pyro_compress.inference.contract",
    "Method": "pyro_compress.inference.contract",
    "State": "pyro_compress.inference.contract",
    "CyclicalSGHMC": "pyro_compress.inference.cyclical",
    "CyclicalSGLD": "pyro_compress.inference.cyclical",
    "Dropout": "pyro_compress.inference.dropout",
    "MCDropout": "pyro_compress.inference.dropout",
    "EpochRecord": "pyro_compress.inference.fit",
    "Flipout": "pyro_compress.inference.flipout",
    "HMC": "pyro_compress.inference.hmc",
    "ImportanceSampling": "pyro_compress.inference.importance",
    "LocalReparameterization": "pyro_compress.inference.local_reparameterization",
    "LogJoint": "pyro_compress.inference.log_joint",
    "Metropolis": "pyro_compress.inference.metropolis",
    "NUTS": "pyro_compress.inference.nuts",
    "MAP": "pyro_compress.inference.point",
    "predictive_mean": "pyro_compress.inference.predictive",
    "PreconditionedSGLD": "pyro_compress.inference.psgld",
    "RejectionSampling": "pyro_compress.inference.rejection",
    "ScoreFunction": "pyro_compress.inference.score_function",
    "SGHMC": "pyro_compress.inference.sghmc",
    "SGLD": "pyro_compress.inference.sgld",
    "SVI": "pyro_compress.inference.svi",
}
__all__ = [
    "HMC",
    "MAP",
    "NUTS",
    "SGHMC",
    "SGLD",
    "SVI",
    "ApproximateMetropolis",
    "BayesByBackprop",
    "CyclicalSGHMC",
    "CyclicalSGLD",
    "Dropout",
    "EpochRecord",
    "Flipout",
    "ImportanceSampling",
    "Info",
    "LocalReparameterization",
    "LogJoint",
    "MCDropout",
    "Method",
    "Metropolis",
    "PreconditionedSGLD",
    "RejectionSampling",
    "ScoreFunction",
    "State",
    "predictive_mean",
]
__getattr__, __dir__ = lazy_names(__name__, _NAMES)
