"""Any Pyro model as inference methods take it: `program(*arguments, size=N)`.

    log p(y, θ) = log p(θ) + (N/n) Σ_i log p(y_i | x_i, θ)

A model that takes `size` scales its likelihood itself, as `BayesianNetwork` does.  For any other, `Program` scales
the observed sites of its data plate, the plate with one place per example of the batch, by N/n.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import nn
from torch.distributions import biject_to

from pyro_compress.errors import InferenceError
from pyro_compress.models.priors.base import LatentSite


class Program(PyroModule):
    """A Pyro model over the arguments that it is fitted to.

    Args:
        function: the model; its arguments are tensors, the data.
        arguments: all of the data, or a batch of it; decides shapes.

    Raises:
        InferenceError: the model declares a `pyro.param`, or has no latent site at all.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[torch.Tensor, ...]) -> None:
        super().__init__()
        self.function, self.arguments = function, arguments
        self.takes_size = "size" in inspect.signature(getattr(function, "forward", function)).parameters
        self.sites = _latent_sites(self.prototype())
        # what methods ask of a BayesianNetwork and a plain model does not have
        self.free, self.network, self.parameters_covered = PyroModule("free"), nn.Module(), ()

    def free_values(self) -> dict[str, torch.Tensor]:
        """No parameter is point-estimated."""
        return {}

    def latents(self) -> tuple[LatentSite, ...]:
        """Every site for guides, started at zero in unconstrained space with the sd 0.1."""
        return tuple(_for_guides(name, fn) for name, fn in self.sites.items())

    @property
    def name(self) -> str:
        """What messages call it."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def forward(self, *arguments: torch.Tensor, size: int | None = None) -> Any:
        """Run the model on a batch.

        Args:
            *arguments: n examples each, or none at all.
            size: N; n if not given.

        Raises:
            InferenceError: n < N, and an observed site is in no data plate, or a latent one is in it.
        """
        count = len(arguments[0]) if arguments and arguments[0].ndim else 0
        if self.takes_size:
            return self.function(*arguments, size=count if size is None else size)
        if size is None or size == count or not count:
            return self.function(*arguments)
        with ScaleData(count, size):
            return self.function(*arguments)

    def prototype(self) -> Any:
        """One trace, drawn from the prior, that leaves torch's generator as it was."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            return poutine.trace(self.forward).get_trace(*self.arguments)


class ScaleData(Messenger):
    """Scales what is observed in the plate of `count` examples to `size` of them."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.count, self.size = count, size

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        in_plate = any(frame.size == self.count for frame in msg["cond_indep_stack"])
        # handlers outside this one, which may fix latent values, have not seen the message yet
        observed = msg["is_observed"]
        if observed and not in_plate:
            raise InferenceError(
                f"observed site '{msg['name']}' is in no plate of the batch's {self.count} examples, so it cannot be "
                f"scaled to all {self.size}: put it in `pyro.plate('data', len(x))`, let the model take `size`, or "
                "use a method that sees all the data"
            )
        if not observed and in_plate:
            raise InferenceError(
                f"latent site '{msg['name']}' is drawn per example, and a batch of {self.count} says nothing of the "
                f"others of {self.size}: use a method that sees all the data, such as NUTS(...)"
            )
        if observed:
            msg["scale"] = msg["scale"] * (self.size / self.count)


def transform_of(name: str, distribution: Any) -> Any:
    """From unconstrained space to a site's support, as Pyro transforms it; None where they are the same.

    Raises:
        InferenceError: the site is discrete.
    """
    support = distribution.support
    if getattr(support, "is_discrete", False):
        raise InferenceError(
            f"latent site '{name}' is discrete, and gradients and random walks need continuous ones: sum it out in "
            "the model, or use ImportanceSampling(...)"
        )
    # an independent constraint around the reals is the identity as well
    base = getattr(support, "base_constraint", support)
    return None if base is torch.distributions.constraints.real else biject_to(support)


def shape_of(distribution: Any) -> torch.Size:
    """Of one draw."""
    return torch.Size(distribution.batch_shape + distribution.event_shape)


def _for_guides(name: str, distribution: Any) -> LatentSite:
    transform, shape = transform_of(name, distribution), shape_of(distribution)
    family = "normal" if transform is None else "transformed"
    unconstrained = shape if transform is None else torch.Size(transform.inverse_shape(shape))
    return LatentSite(name, family, unconstrained, torch.zeros(()), 2 * math.log(0.1), transform=transform)


def _latent_sites(trace: Any) -> dict[str, Any]:
    """Distribution of every latent site, by name."""
    found = {}
    for name, node in trace.nodes.items():
        if node["type"] == "param":
            raise InferenceError(
                f"the model declares the parameter '{name}' with pyro.param, which no prior covers: make it a sample "
                "site, or a constant"
            )
        if node["type"] != "sample" or node["is_observed"] or site_is_subsample(node):
            continue
        found[name] = node["fn"]
    if not found:
        raise InferenceError("the model has no latent site: there is nothing to infer")
    return found
