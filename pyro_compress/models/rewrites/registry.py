"""Rewrites by the names that zoo entries and the command line use."""

from pyro_compress.config.registry import Registry
from pyro_compress.errors import NetworkError
from pyro_compress.models.rewrites.base import Rewrite
from pyro_compress.models.rewrites.low_rank import LowRank
from pyro_compress.models.rewrites.narrow import Narrow
from pyro_compress.models.rewrites.tie import Tie

REWRITES: Registry[Rewrite] = Registry(
    "rewrite", NetworkError, "pyro_compress.rewrites", {"low-rank": LowRank, "narrow": Narrow, "tie": Tie}
)
