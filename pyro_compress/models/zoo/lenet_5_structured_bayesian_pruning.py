"""LeNet-5 under structured Bayesian pruning."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-5/structured-bayesian-pruning",
    network="lenet-5",
    prior="structured-bayesian-pruning",
    data="mnist",
    method_options={"epochs": 12},
    pretrain_epochs=5,
    published=(Published("SBP", "Neklyudov et al. 2017", 0.86, architecture="3-18-284-283"),),
)
