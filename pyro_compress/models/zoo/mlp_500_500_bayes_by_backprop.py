"""784-500-500-10 by Bayes by Backprop: sampled complexity, σ₁ = e¹ and σ₂ = e⁻⁶ as published, and a β below 1."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="mlp-500-500/bayes-by-backprop",
    network="mlp-500-500",
    prior="scale-mixture",
    data="mnist",
    method="bbb",
    prior_options={"wide": 2.718281828459045, "narrow": 0.0024787521766663585},
    method_options={"epochs": 50, "batch_size": 100, "kl_weight": 0.1},
    decision_options={"fine_tune_epochs": 0, "remove_percent": 90.0},
    published=(
        Published("Bayes by Backprop, 90 % pruned", "Prasad, reproduction of Blundell et al. 2015", 1.78),
        Published("SGD, 90 % pruned", "Prasad", 30.57),
    ),
    chosen_on=(
        "β on validation with seed 0: 0.1 ends at 1.74 % with 90 % pruned, 1 at 2.82 %; prior, epochs, batch and share "
        "pruned as published"
    ),
)
