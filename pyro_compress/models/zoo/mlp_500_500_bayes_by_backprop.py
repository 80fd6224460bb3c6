"""784-500-500-10 by Bayes by Backprop as published: sampled complexity, β = 1, σ₁ = e¹ and σ₂ = e⁻⁶."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="mlp-500-500/bayes-by-backprop",
    network="mlp-500-500",
    prior="scale-mixture",
    data="mnist",
    method="bbb",
    prior_options={"wide": 2.718281828459045, "narrow": 0.0024787521766663585},
    method_options={"epochs": 50, "batch_size": 100},
    decision_options={"fine_tune_epochs": 0, "remove_percent": 90.0},
    published=(
        Published("Bayes by Backprop, 90 % pruned", "Prasad, reproduction of Blundell et al. 2015", 1.78),
        Published("SGD, 90 % pruned", "Prasad", 30.57),
    ),
    chosen_on="nothing: prior, epochs, batch and share pruned as published, β = 1",
)
