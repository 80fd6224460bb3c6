"""What a guide is to the methods that fit one."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from pyro_compress.models.priors.base import Moments
from pyro_compress.posterior.draws import Draws


class Guide(Protocol):
    """An approximate posterior: a module whose `forward` holds its sample statements.

    Attributes:
        width: latent numbers that a posterior's draws hold.
    """

    @property
    def width(self) -> int: ...

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The sample statements; called with a batch and size=N, as the model is."""

    def parameter_groups(self, rates: dict[str, float]) -> Iterator[dict[str, Any]]:
        """Optimizer groups: 'params', and the 'multiplier' that `rates` has for their role."""

    def moments(self) -> Mapping[str, Moments]:
        """Of every site's marginal that has a closed form."""

    def draws(self, model: Any, count: int, seed: int) -> Draws:
        """Independent draws, with the statistic 'guide_log_density' (`results/iid_draws.py`)."""
