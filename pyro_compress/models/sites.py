"""What one site of a Pyro trace counts for: its log-probability, scaled and masked as the program asks for."""

from collections.abc import Collection
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_compress.errors import InferenceError


def log_prob(node: Any, value: Any = None) -> Tensor:
    """log p at a site's value, or another, neither scaled nor masked; of the site's batch shape."""
    found: Tensor = node["fn"].log_prob(node["value"] if value is None else value, *node["args"], **node["kwargs"])
    return found


def weighted(node: Any, elements: Tensor) -> Tensor:
    """What a site has in each of its places, scaled and masked as the program asks for."""
    found: Tensor = scale_and_mask(elements, node["scale"], node["mask"])
    return found


def weighted_total(node: Any, elements: Tensor) -> Tensor:
    """Σ of `weighted`, a scalar; nothing is done for a scale of 1 without a mask."""
    scale, mask = node["scale"], node["mask"]
    if mask is None and isinstance(scale, int | float):
        total = elements.sum()
        return total if scale == 1 else scale * total
    return weighted(node, elements).sum()


def is_latent(node: Any) -> bool:
    """Whether a node is a sample site without an observation, and not the choice of a plate's subsample."""
    return bool(node["type"] == "sample" and not node["is_observed"] and not site_is_subsample(node))


def is_deterministic(node: Any) -> bool:
    """Whether a node is a value that follows from others, noted with `pyro.deterministic`: it has no density."""
    return bool(node["infer"].get("_deterministic"))


def refuse_outside(node: Any, model: str) -> None:
    """Say so where what a site observes is no tensor, or outside of its distribution's support, as NaN is.

    Raises:
        InferenceError: names the site and the first such value.
    """
    value, support = node["value"], getattr(node["fn"], "support", None)
    if not node["is_observed"] or support is None:
        return
    if not isinstance(value, Tensor):
        raise InferenceError(
            f"the model {model} observes a {type(value).__name__} at site '{node['name']}', expected a tensor: give "
            "tensors or arrays, such as series.to_numpy()"
        )
    outside = ~torch.as_tensor(support.check(value))
    if bool(outside.any()):
        first = value[outside.expand(value.shape[: outside.ndim])].flatten()[0].item()
        raise InferenceError(
            f"the model {model} observes {int(outside.sum()):,} of {outside.numel():,} values of site '{node['name']}' "
            f"outside of the support of its distribution, {support}, such as {first}: leave them out; values that are "
            "missing take any other number and obs_mask or poutine.mask, since a mask does not hide NaN"
        )


def refuse_other_sites(trace: Any, latents: Collection[str]) -> None:
    """Say so where a run has other latent sites than those that are known.

    Args:
        trace: of a run, with or without values for the latent sites.
        latents: names.

    Raises:
        InferenceError: names the site.
    """
    advice = "and methods need the same sites in all of them: draw it always, and use it where it is needed"
    for name, node in trace.nodes.items():
        if is_latent(node) and name not in latents:
            raise InferenceError(f"latent site '{name}' is drawn in some runs of the model and not in others, {advice}")
    for name in latents:
        if name not in trace.nodes:
            raise InferenceError(f"latent site '{name}' was not drawn in one of the runs of the model, {advice}")
