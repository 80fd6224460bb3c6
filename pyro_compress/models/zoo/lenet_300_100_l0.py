"""LeNet-300-100 with hard-concrete gates."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-300-100/l0",
    network="lenet-300-100",
    prior="l0",
    data="mnist",
    method_options={"epochs": 30},
    pretrain_epochs=5,
    published=(Published("L0, hard concrete", "Louizos et al. 2018", 1.8, architecture="266-88-33"),),
)
