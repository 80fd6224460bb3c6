"""Binary images drawn from grey ones: every grey value is the probability of a 1."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_compress.data.generators import generator_for
from pyro_compress.errors import DataError, unknown_name

KINDS = ("static", "dynamic")


@dataclass(frozen=True)
class Binarisation:
    """x ~ Bernoulli(p), elementwise independent.

    Args:
        kind: 'static', drawn once, or 'dynamic', drawn anew each time that an example is trained on.
        seed: of all draws.

    Raises:
        DataError: no such kind.
    """

    kind: str
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(unknown_name("binarisation", self.kind, KINDS))

    @property
    def is_dynamic(self) -> bool:
        """Whether training examples are drawn anew each time."""
        return self.kind == "dynamic"

    def draw(self, probabilities: Tensor, *stream: int) -> Tensor:
        """Zeros and ones of the shape of the probabilities, which depend on these, the seed and `stream` alone."""
        generator = generator_for(self.seed, *stream)
        uniform = torch.rand(probabilities.shape, generator=generator, dtype=torch.float32, device="cpu")
        return (uniform.to(probabilities.device) < probabilities).to(probabilities.dtype)

    def check(self, probabilities: Tensor, where: str) -> None:
        """Refuse what is no probability.

        Raises:
            DataError: names the first such number.
        """
        outside = (probabilities < 0) | (probabilities > 1)
        if bool(outside.any()):
            index = tuple(torch.nonzero(outside)[0].tolist())
            raise DataError(
                f"{where}: the input {probabilities[index].item():g} at index {index} is no probability, from which "
                "binarisation draws: scale the inputs to 0..1"
            )
