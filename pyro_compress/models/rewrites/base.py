"""What a rewrite is: from a network to another that computes nearly the same and is easier to compress."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from pyro_compress.config.keyword_options import check_options
from pyro_compress.errors import NetworkError
from pyro_compress.models.checking import check_network
from pyro_compress.models.parameters import refuse_tied_modules


@dataclass(frozen=True)
class Rewrite(ABC):
    """Base of all rewrites: frozen dataclasses whose fields are their options.

    A rewrite reads the weights of a network and gives plain modules again, so every prior and every method takes what
    it gives.  Which modules those are depends on the numbers of the network and on nothing else: a run makes them again
    from the weights that it started with.
    """

    def __post_init__(self) -> None:
        check_options(self, NetworkError)

    def __call__(self, network: nn.Module, input_shape: tuple[int, ...] | None = None) -> nn.Module:
        """The rewritten network, a new one; `network` stays as it is.

        Args:
            network: a module.
            input_shape: of one example, for rewrites that look at what it makes of one.

        Raises:
            NetworkError: the network holds what cannot be rewritten: hooks, tied weights, parameters that are computed
                or not float32; or an option does not go with it.
        """
        check_network(network)
        refuse_tied_modules(network)
        return self.rewrite(network, input_shape)

    @abstractmethod
    def rewrite(self, network: nn.Module, input_shape: tuple[int, ...] | None) -> nn.Module:
        """The same of a network that has been checked."""
