"""LeNet-300-100 under a spike and slab."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="lenet-300-100/spike-and-slab",
    network="lenet-300-100",
    prior="spike-and-slab",
    data="mnist",
    method_options={"epochs": 30},
    pretrain_epochs=5,
)
