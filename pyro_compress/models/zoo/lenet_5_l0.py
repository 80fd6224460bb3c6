"""LeNet-5 with hard-concrete gates."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-5/l0",
    network="lenet-5",
    prior="l0",
    data="mnist",
    method_options={"epochs": 12},
    pretrain_epochs=5,
    published=(Published("L0, hard concrete", "Louizos et al. 2018", 1.0, architecture="9-18-65-25"),),
)
