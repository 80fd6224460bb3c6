"""A tanh network on 5,000 images of MNIST under independent normals, by NUTS on all of them."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="mnist-tanh/normal",
    network="mnist-tanh",
    prior="normal",
    data="mnist",
    method="nuts",
    method_options={"chains": 2, "warmup": 200, "draws": 200, "max_tree_depth": 7},
    examples=5000,
)
