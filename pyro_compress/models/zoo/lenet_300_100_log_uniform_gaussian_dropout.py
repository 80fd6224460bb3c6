"""Gaussian dropout of a fixed rate, α = 0.25, on LeNet-300-100."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="lenet-300-100/log-uniform-gaussian-dropout",
    network="lenet-300-100",
    prior="log-uniform",
    data="mnist",
    prior_options={"alpha": 0.25, "learned": False},
    method_options={"epochs": 30},
)
