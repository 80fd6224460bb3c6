"""Several estimates of the ELBO at once: draws of a joint guide side by side, and the model run on all of them."""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch.func import vmap

from pyro_compress.inference.gradient.elbo import ElboTerms
from pyro_compress.inference.guides.joint import JOINT


class GivenDraws(Messenger):
    """Around a joint guide: a draw from outside, (D,), in place of one of its own."""

    def __init__(self, draw: torch.Tensor) -> None:
        super().__init__()
        self.draw = draw

    def _pyro_sample(self, message: Any) -> None:
        if message["name"] == JOINT:
            message["value"], message["done"] = self.draw, True


def side_by_side(estimate: Callable[[Messenger], ElboTerms], draws: torch.Tensor) -> ElboTerms:
    """The mean of `estimate` over draws (particle, D); what branches on values is run on one after the other."""
    names: list[str] = []

    def one(draw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        terms = estimate(GivenDraws(draw))
        names[:] = terms.by_site
        return terms.data, terms.complexity, *terms.by_site.values()

    try:
        # checks look at values
        with pyro.validation_enabled(False):
            columns = vmap(one, randomness="different")(draws)
    except RuntimeError:
        columns = tuple(torch.stack(column) for column in zip(*map(one, draws), strict=True))
    data, complexity, *rest = (column.mean(0) for column in columns)
    return ElboTerms(data, complexity, dict(zip(names, rest, strict=True)))
