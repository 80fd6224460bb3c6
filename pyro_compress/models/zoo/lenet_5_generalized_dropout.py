"""LeNet-5 under Generalized Dropout."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-5/generalized-dropout",
    network="lenet-5",
    prior="generalized-dropout",
    data="mnist",
    prior_options={"beta": 15.0},
    method_options={"epochs": 12, "rates": {"scale": 20.0}},
    pretrain_epochs=5,
    published=(Published("GD", "Srinivas & Babu 2016", 1.1, architecture="7-13-208-16"),),
    chosen_on=(
        "validation, seed 0: four times the usual rate of the gates; Beta(1, 40) was at 1.4 % after 6 of 16 epochs, "
        "and Beta(1, 5) at the usual rate keeps nearly all units"
    ),
)
