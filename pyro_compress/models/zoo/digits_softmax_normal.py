"""Softmax regression on the digits under independent normals: NUTS on all the data, the reference for the others."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="digits-softmax/normal",
    network="digits-softmax",
    prior="normal",
    data="digits",
    method="nuts",
    method_options={"chains": 4, "warmup": 200, "draws": 200, "max_tree_depth": 8},
)
