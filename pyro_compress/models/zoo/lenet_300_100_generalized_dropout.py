"""LeNet-300-100 under Generalized Dropout."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="lenet-300-100/generalized-dropout",
    network="lenet-300-100",
    prior="generalized-dropout",
    data="mnist",
    method_options={"epochs": 30, "rates": {"scale": 20.0}},
    pretrain_epochs=5,
    chosen_on="validation, seed 0: four times the usual rate of the gates; Beta(1, 20) has a smaller file, more errors",
)
