"""Priors by the names that zoo entries and the command line use."""

from collections.abc import Mapping
from typing import Any

from pyro_compress.config.keyword_options import build
from pyro_compress.errors import PriorError, unknown_name
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys
from pyro_compress.models.priors.scale_mixture import ScaleMixture

PRIORS: Mapping[str, type[Prior]] = {
    "normal": Normal,
    "scale-mixture": ScaleMixture,
    "log-uniform": LogUniform,
    "group-normal-jeffreys": GroupNormalJeffreys,
    "group-horseshoe": GroupHorseshoe,
}


def prior_named(name: str, options: Mapping[str, Any] | None = None) -> Prior:
    """Build a prior from its registered name and field values.

    Raises:
        PriorError: unknown name (lists the known ones), an unknown field, or a value of another type.
    """
    if name not in PRIORS:
        raise PriorError(unknown_name("prior", name, PRIORS))
    return build(PRIORS[name], f"prior '{name}'", options or {}, PriorError)
