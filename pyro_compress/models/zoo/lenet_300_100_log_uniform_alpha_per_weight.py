"""Variational dropout with one α per weight of LeNet-300-100."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="lenet-300-100/log-uniform-alpha-per-weight",
    network="lenet-300-100",
    prior="log-uniform",
    data="mnist",
    prior_options={"alpha": 0.25},
    method_options={"epochs": 30},
)
