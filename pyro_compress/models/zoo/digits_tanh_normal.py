"""A tanh network on the digits under independent normals, by NUTS on all the data."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="digits-tanh/normal",
    network="digits-tanh",
    prior="normal",
    data="digits",
    method="nuts",
    method_options={"chains": 4, "warmup": 200, "draws": 200, "max_tree_depth": 8},
)
