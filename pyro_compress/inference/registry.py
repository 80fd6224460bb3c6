"""Inference methods by the names that zoo entries and the command line use."""

from collections.abc import Mapping
from typing import Any

from pyro_compress.config.keyword_options import build
from pyro_compress.errors import InferenceError, unknown_name
from pyro_compress.inference.contract import Method
from pyro_compress.inference.independent.importance import ImportanceSampling
from pyro_compress.inference.independent.rejection import RejectionSampling
from pyro_compress.inference.mcmc.approximate_metropolis import ApproximateMetropolis
from pyro_compress.inference.mcmc.hmc import HMC
from pyro_compress.inference.mcmc.metropolis import Metropolis
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.inference.point.dropout import Dropout, MCDropout
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.stochastic_gradient.cyclical import CyclicalSGHMC, CyclicalSGLD
from pyro_compress.inference.stochastic_gradient.psgld import PreconditionedSGLD
from pyro_compress.inference.stochastic_gradient.sghmc import SGHMC
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.svi import SVI

METHODS: Mapping[str, type[Method]] = {
    "svi": SVI,
    "bbb": BayesByBackprop,
    "map": MAP,
    "dropout": Dropout,
    "mc-dropout": MCDropout,
    "sgld": SGLD,
    "psgld": PreconditionedSGLD,
    "sghmc": SGHMC,
    "csgld": CyclicalSGLD,
    "csghmc": CyclicalSGHMC,
    "metropolis": Metropolis,
    "approximate-metropolis": ApproximateMetropolis,
    "hmc": HMC,
    "nuts": NUTS,
    "importance": ImportanceSampling,
    "rejection": RejectionSampling,
}


def method_named(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """Build a method from its registered name and field values.

    Raises:
        InferenceError: unknown name (lists the known ones), an unknown field, or a value of another type.
    """
    if name not in METHODS:
        raise InferenceError(unknown_name("inference method", name, METHODS))
    return build(METHODS[name], f"method '{name}'", options or {}, InferenceError)
