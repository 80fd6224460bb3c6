"""Networks with proportional hazards: one log hazard ratio per example, added to a baseline of their own."""

from collections import OrderedDict

import torch
from torch import nn

from pyro_compress.errors import NetworkError


def proportional_hazards(log_hazard_ratio: nn.Module, intervals: int) -> nn.Sequential:
    """f_j(x) = g(x) + b_j for the likelihood 'piecewise-exponential': hazards exp(b_j) exp(g(x)) in interval j.

    Between two examples hazards have the ratio exp(g(x) − g(x′)) at all times (Cox 1972), which is that of any one
    output.  The last layer, `baseline`, is a dense layer from one number to J whose weights are ones and stay so
    (`requires_grad=False`) and whose bias is b; so it is traced and stored as any other, and the file holds the
    baseline.  g counts up to a constant that b takes: its own last layer needs no bias.

    Args:
        log_hazard_ratio: g, inputs to (examples, 1).
        intervals: J, as many as the likelihood's `breaks`.

    Raises:
        NetworkError: no interval.
    """
    if intervals < 1:
        raise NetworkError(f"a baseline hazard has at least one interval, found intervals={intervals}")
    baseline = nn.Linear(1, intervals)
    baseline.weight.requires_grad_(False)
    with torch.no_grad():
        baseline.weight.fill_(1.0)
        baseline.bias.zero_()
    return nn.Sequential(OrderedDict(log_hazard_ratio=log_hazard_ratio, baseline=baseline))


def dense_hazards(*widths: int, intervals: int) -> nn.Sequential:
    """The same over dense layers with ReLU from `widths[0]` covariates on, and a last one to g without a bias."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, inputs in enumerate(widths[:-1], start=1):
        layers[f"fc{number}"] = nn.Linear(inputs, widths[number])
        layers[f"relu{number}"] = nn.ReLU()
    layers[f"fc{len(widths)}"] = nn.Linear(widths[-1], 1, bias=False)
    return proportional_hazards(nn.Sequential(layers), intervals)


def survival_linear() -> nn.Sequential:
    """Seven covariates to one log hazard ratio, and the baseline of six intervals; 13 numbers are trained."""
    return dense_hazards(7, intervals=6)


def survival() -> nn.Sequential:
    """7-32-16-1 with ReLU, and the baseline of six intervals; 806 numbers are trained."""
    return dense_hazards(7, 32, 16, intervals=6)
