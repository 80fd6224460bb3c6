"""784-500-500-10 on Fashion-MNIST under the log-uniform prior."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="mlp-500-500/log-uniform-fashion",
    network="mlp-500-500",
    prior="log-uniform",
    data="fashion-mnist",
    method_options={"epochs": 40, "kl_weight": 0.1},
    decision_options={
        "rate_weights": (0.1, 0.2, 0.4, 0.8),
        "fine_tune_noise": 0.5,
        "stage_tolerance_points": 0.2,
    },
    pretrain_epochs=5,
    published=(
        Published("Bayes by Backprop, 90 % pruned", "Prasad, reproduction of Blundell et al. 2015", 10.38),
        Published("SGD, 90 % pruned", "Prasad", 51.10),
    ),
    chosen_on="validation, seed 0: β = 0.1 (9.9 % error of the posterior mean) against 0.3 (10.3 %)",
)
