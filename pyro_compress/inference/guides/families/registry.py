"""Guide families by the names that priors declare (`LatentSite.family`)."""

from collections.abc import Mapping

from pyro_compress.inference.guides.families.bernoulli import Bernoulli
from pyro_compress.inference.guides.families.family import Family
from pyro_compress.inference.guides.families.hard_concrete import HardConcrete
from pyro_compress.inference.guides.families.normal import Dropout, LogNormal, Normal, Transformed
from pyro_compress.inference.guides.families.point import Point
from pyro_compress.inference.guides.families.truncated_log_normal import TruncatedLogNormal

FAMILIES: Mapping[str, Family] = {
    "normal": Normal(),
    "dropout": Dropout(),
    "lognormal": LogNormal(),
    "transformed": Transformed(),
    "point": Point(),
    "bernoulli": Bernoulli(),
    "hard-concrete": HardConcrete(),
    "truncated-lognormal": TruncatedLogNormal(),
}
