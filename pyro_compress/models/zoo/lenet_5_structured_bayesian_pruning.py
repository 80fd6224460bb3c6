"""LeNet-5 under structured Bayesian pruning."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-5/structured-bayesian-pruning",
    network="lenet-5",
    prior="structured-bayesian-pruning",
    data="mnist",
    method_options={"epochs": 24, "rates": {"scale": 20.0, "log_variance": 10.0}},
    pretrain_epochs=5,
    published=(Published("SBP", "Neklyudov et al. 2017", 0.86, architecture="3-18-284-283"),),
    chosen_on=(
        "validation, seed 0: four times the usual rate of the noise, against the usual one for 12 epochs, under which "
        "channels had not found out what they are needed for; the paper has 200 epochs"
    ),
)
