"""784-500-500-10 under the scale mixture of two Gaussians (Bayes by Backprop)."""

from pyro_compress.models.zoo.entry import UNRECORDED, Entry, Published

ENTRY = Entry(
    name="mlp-500-500/scale-mixture",
    network="mlp-500-500",
    prior="scale-mixture",
    data="mnist",
    method_options={"epochs": 25, "batch_size": 256, "kl_weight": 0.1},
    decision_options={"remove_percent": 90.0, "rate_weights": (0.1,), "tolerance_points": 0.2},
    published=(
        Published("Bayes by Backprop, 90 % pruned", "Prasad, reproduction of Blundell et al. 2015", 1.78),
        Published("SGD, 90 % pruned", "Prasad", 30.57),
    ),
    chosen_on=UNRECORDED,
)
