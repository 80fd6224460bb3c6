"""LeNet-5 under Generalized Dropout."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-5/generalized-dropout",
    network="lenet-5",
    prior="generalized-dropout",
    data="mnist",
    method_options={"epochs": 12},
    pretrain_epochs=5,
    published=(Published("GD", "Srinivas & Babu 2016", 1.1, architecture="7-13-208-16"),),
)
