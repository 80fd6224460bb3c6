"""LeNet-300-100 under structured Bayesian pruning."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="lenet-300-100/structured-bayesian-pruning",
    network="lenet-300-100",
    prior="structured-bayesian-pruning",
    data="mnist",
    method_options={"epochs": 30, "rates": {"scale": 20.0, "log_variance": 10.0}},
    pretrain_epochs=5,
    chosen_on="validation, seed 0: four times the usual rate of the noise, chosen on LeNet-5",
)
