"""How beliefs change: inference methods under one contract; `pyro_compress.fit` runs any of them."""

from typing import TYPE_CHECKING

from pyro_compress._lazy import lazy_names

if TYPE_CHECKING:
    from pyro_compress.inference.contract import Info, Method, State
    from pyro_compress.inference.fit import EpochRecord
    from pyro_compress.inference.guides.flipout import Flipout
    from pyro_compress.inference.guides.local_reparameterization import LocalReparameterization
    from pyro_compress.inference.independent.importance import ImportanceSampling
    from pyro_compress.inference.independent.rejection import RejectionSampling
    from pyro_compress.inference.log_joint.log_joint import LogJoint
    from pyro_compress.inference.mcmc.approximate_metropolis import ApproximateMetropolis
    from pyro_compress.inference.mcmc.hmc import HMC
    from pyro_compress.inference.mcmc.metropolis import Metropolis
    from pyro_compress.inference.mcmc.nuts import NUTS
    from pyro_compress.inference.point.dropout import Dropout, MCDropout
    from pyro_compress.inference.point.dynamic_network_surgery import DynamicNetworkSurgery
    from pyro_compress.inference.point.group_lasso import GroupLasso
    from pyro_compress.inference.point.learning_compression import LearningCompression
    from pyro_compress.inference.point.magnitude_pruning import MagnitudePruning
    from pyro_compress.inference.point.map import MAP
    from pyro_compress.inference.results.predictive import predictive_mean
    from pyro_compress.inference.stochastic_gradient.cyclical import CyclicalSGHMC, CyclicalSGLD
    from pyro_compress.inference.stochastic_gradient.psgld import PreconditionedSGLD
    from pyro_compress.inference.stochastic_gradient.sghmc import SGHMC
    from pyro_compress.inference.stochastic_gradient.sgld import SGLD
    from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
    from pyro_compress.inference.variational.score_function import ScoreFunction
    from pyro_compress.inference.variational.svi import SVI

_NAMES = {
    "ApproximateMetropolis": "pyro_compress.inference.mcmc.approximate_metropolis",
    "BayesByBackprop": "pyro_compress.inference.variational.bayes_by_backprop",
    "Info": "pyro_compress.inference.contract",
    "Method": "pyro_compress.inference.contract",
    "State": "pyro_compress.inference.contract",
    "CyclicalSGHMC": "pyro_compress.inference.stochastic_gradient.cyclical",
    "CyclicalSGLD": "pyro_compress.inference.stochastic_gradient.cyclical",
    "Dropout": "pyro_compress.inference.point.dropout",
    "MCDropout": "pyro_compress.inference.point.dropout",
    "EpochRecord": "pyro_compress.inference.fit",
    "Flipout": "pyro_compress.inference.guides.flipout",
    "HMC": "pyro_compress.inference.mcmc.hmc",
    "ImportanceSampling": "pyro_compress.inference.independent.importance",
    "LocalReparameterization": "pyro_compress.inference.guides.local_reparameterization",
    "LogJoint": "pyro_compress.inference.log_joint.log_joint",
    "MagnitudePruning": "pyro_compress.inference.point.magnitude_pruning",
    "Metropolis": "pyro_compress.inference.mcmc.metropolis",
    "NUTS": "pyro_compress.inference.mcmc.nuts",
    "GroupLasso": "pyro_compress.inference.point.group_lasso",
    "LearningCompression": "pyro_compress.inference.point.learning_compression",
    "DynamicNetworkSurgery": "pyro_compress.inference.point.dynamic_network_surgery",
    "MAP": "pyro_compress.inference.point.map",
    "predictive_mean": "pyro_compress.inference.results.predictive",
    "PreconditionedSGLD": "pyro_compress.inference.stochastic_gradient.psgld",
    "RejectionSampling": "pyro_compress.inference.independent.rejection",
    "ScoreFunction": "pyro_compress.inference.variational.score_function",
    "SGHMC": "pyro_compress.inference.stochastic_gradient.sghmc",
    "SGLD": "pyro_compress.inference.stochastic_gradient.sgld",
    "SVI": "pyro_compress.inference.variational.svi",
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
    "DynamicNetworkSurgery",
    "EpochRecord",
    "Flipout",
    "GroupLasso",
    "ImportanceSampling",
    "Info",
    "LearningCompression",
    "LocalReparameterization",
    "LogJoint",
    "MCDropout",
    "MagnitudePruning",
    "Method",
    "Metropolis",
    "PreconditionedSGLD",
    "RejectionSampling",
    "ScoreFunction",
    "State",
    "predictive_mean",
]
__getattr__, __dir__ = lazy_names(__name__, _NAMES)
