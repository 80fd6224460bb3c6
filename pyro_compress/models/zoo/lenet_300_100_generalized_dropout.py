"""LeNet-300-100 under Generalized Dropout."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="lenet-300-100/generalized-dropout",
    network="lenet-300-100",
    prior="generalized-dropout",
    data="mnist",
    method_options={"epochs": 30},
    pretrain_epochs=5,
)
