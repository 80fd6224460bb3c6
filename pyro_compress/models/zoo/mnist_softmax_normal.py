"""Softmax regression on 5,000 images of MNIST under independent normals, by NUTS on all of them."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="mnist-softmax/normal",
    network="mnist-softmax",
    prior="normal",
    data="mnist",
    method="nuts",
    method_options={"chains": 4, "warmup": 200, "draws": 200, "max_tree_depth": 7},
    examples=5000,
)
