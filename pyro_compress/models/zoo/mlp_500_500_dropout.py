"""784-500-500-10 trained by stochastic gradient descent under dropout: what Bayes by Backprop is compared with."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="mlp-500-500/dropout",
    network="mlp-500-500",
    prior="none",
    data="mnist",
    method="dropout",
    method_options={
        "epochs": 50, "batch_size": 100, "optimizer": "sgd", "learning_rate": 0.1, "schedule": "constant", "rate": 0.5,
    },
    decision_options={"fine_tune_epochs": 0},
    published=(Published("dropout 0.5, nothing pruned", "Prasad, reproduction of Blundell et al. 2015", 1.73),),
    chosen_on="nothing: epochs, batch and p as published, the rate as is usual",
)  # fmt: skip
