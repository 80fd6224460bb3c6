"""784-500-500-10 trained by plain stochastic gradient descent: what Bayes by Backprop is compared with."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="mlp-500-500/sgd",
    network="mlp-500-500",
    prior="none",
    data="mnist",
    method="map",
    method_options={"epochs": 50, "batch_size": 100, "optimizer": "sgd", "learning_rate": 0.1, "schedule": "constant"},
    decision_options={"fine_tune_epochs": 0},
    published=(Published("SGD, nothing pruned", "Prasad, reproduction of Blundell et al. 2015", 2.17),),
    chosen_on="nothing: epochs and batch as published, the rate as is usual",
)
