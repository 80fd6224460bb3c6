"""Places of latent sites that are masked out and that nothing else depends on.

A mask takes away the density of a latent value.  Where the rest of the model depends on the value, that leaves a flat
prior, as declared.  Where nothing does, as in `obs_mask` at the places that are observed, or behind the end of a padded
sequence, it would leave no posterior at all: guides would widen and chains would walk off for ever.  There the prior
is put back, which changes the distribution of nothing else where q counts there too.  A guide that masks the same
places leaves q out, and then the prior stays out as well (`Program.leave_masked`).
"""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_compress.models.sites import is_latent, log_prob, weighted_total

# draws from the prior at which the gradient must be zero
TRIALS = 2


def unreached_places(run: Callable[..., Any], arguments: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """By latent site: bool of its batch shape, True where it is masked out and the log joint does not depend on it."""
    found: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
        for seed in range(TRIALS):
            torch.default_generator.manual_seed(seed)
            with torch.no_grad():
                drawn = poutine.trace(run).get_trace(*arguments)
            masked = {n: s for n, s in drawn.nodes.items() if is_latent(s) and s["mask"] is not None and _is_real(s)}
            if not masked:
                return {}
            for name, places in _without_gradient(run, arguments, drawn, masked).items():
                found[name] = found.get(name, places) & places
    return {name: places for name, places in found.items() if bool(places.any())}


def _without_gradient(
    run: Callable[..., Any], arguments: tuple[Tensor, ...], drawn: Any, masked: dict[str, Any]
) -> dict[str, Tensor]:
    values = {name: site["value"].detach() for name, site in drawn.nodes.items() if is_latent(site)}
    leaves = {name: values[name].clone().requires_grad_() for name in masked}
    with torch.enable_grad():
        trace = poutine.trace(poutine.condition(run, data=values | leaves)).get_trace(*arguments)
        sites = [site for site in trace.nodes.values() if site["type"] == "sample"]
        total = sum((weighted_total(site, log_prob(site)) for site in sites), torch.zeros(()))
        if not total.requires_grad:
            gradients: tuple[Tensor | None, ...] = (None,) * len(leaves)
        else:
            gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    found = {}
    for (name, site), gradient in zip(masked.items(), gradients, strict=True):
        shape, within = site["fn"].batch_shape, len(site["fn"].event_shape)
        still = torch.zeros_like(leaves[name]) if gradient is None else gradient
        still = still == 0
        places = still.flatten(still.ndim - within).all(-1) if within else still
        out = ~torch.as_tensor(site["mask"]).expand(shape)
        found[name] = places & out
    return found


def _is_real(site: Any) -> bool:
    return isinstance(site["value"], Tensor) and site["value"].is_floating_point()


class WithPriors(Messenger):
    """Gives places of latent sites their prior in spite of a mask.

    Args:
        places: bool by site.
    """

    def __init__(self, places: dict[str, Tensor]) -> None:
        super().__init__()
        self.places = places

    def _pyro_sample(self, msg: Any) -> None:
        places = self.places.get(msg["name"])
        if places is not None and msg["mask"] is not None and not msg["is_observed"]:
            msg["mask"] = torch.as_tensor(msg["mask"]) | places
