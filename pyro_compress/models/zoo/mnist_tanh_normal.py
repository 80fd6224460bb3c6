"""A tanh network on 2,000 images of MNIST under independent normals, by NUTS on all of them."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="mnist-tanh/normal",
    network="mnist-tanh",
    prior="normal",
    data="mnist",
    method="nuts",
    method_options={"chains": 2, "warmup": 150, "draws": 150, "max_tree_depth": 6},
    examples=2000,
)
