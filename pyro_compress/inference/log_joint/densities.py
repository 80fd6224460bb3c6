"""Log densities of the sites of a trace, as sums.

A normal whose location and scale are one number each, as most priors of weights are, needs its squared distance and
nothing else: log p(x) = −|x − μ|² / (2σ²) − D ln σ − D/2 ln 2π.  Pyro's own sum makes a dozen tensors of the size of
a weight matrix on the way there and back.
"""

import math
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def compute_log_prob(trace: Any) -> None:
    """Give every sample site of a Pyro trace its `log_prob_sum`: a scalar, scaled and masked, with its gradient."""
    trace.compute_log_prob(site_filter=lambda name, node: _plain_normal(node) is None)
    for node in trace.nodes.values():
        if node["type"] == "sample" and "log_prob_sum" not in node:
            normal = _plain_normal(node)
            assert normal is not None
            node["log_prob_sum"] = normal_sum(node["value"], *normal)


def normal_sum(value: Tensor, location: Tensor, scale: Tensor) -> Tensor:
    """Σ log N(value; location, scale²) with scalar location and scale."""
    distance = (value - location).reshape(-1)
    return -0.5 * _square(distance) / scale.square() - len(distance) * (scale.log() + HALF_LOG_TWO_PI)


def _square(vector: Tensor) -> Tensor:
    found: Tensor = _Square.apply(vector)
    return found


class _Square(torch.autograd.Function):
    """|x|², with its gradient 2x written down: that of a dot product passes over x three times."""

    generate_vmap_rule = True

    @staticmethod
    def forward(vector: Tensor) -> Tensor:
        return torch.dot(vector, vector)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (vector,) = ctx.saved_tensors
        return vector * (2.0 * grads[0])


def _plain_normal(node: Any) -> tuple[Tensor, Tensor] | None:
    """(location, scale), scalars, of a site that is neither scaled nor masked and has one of each for all places."""
    scaled = not (isinstance(node["scale"], int | float) and node["scale"] == 1)
    if scaled or node["mask"] is not None or node["args"] or node["kwargs"]:
        return None
    fn = node["fn"]
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    if type(fn) is not dist.Normal or fn.batch_shape != node["value"].shape or not fn.batch_shape:
        return None
    location, scale = _one_number(fn.loc), _one_number(fn.scale)
    return None if location is None or scale is None else (location, scale)


def _one_number(parameter: Tensor) -> Tensor | None:
    """The number that an expanded tensor repeats, or None where it holds several."""
    if any(parameter.stride()) and parameter.numel() > 1:
        return None
    return parameter[(0,) * parameter.ndim]
