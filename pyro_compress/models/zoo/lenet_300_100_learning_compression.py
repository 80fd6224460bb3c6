"""LeNet-300-100 by learning-compression: training and pruning to 5 % of the weights by turns."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-300-100/learning-compression",
    network="lenet-300-100",
    prior="none",
    data="mnist",
    method="learning-compression",
    method_options={
        "epochs": 12,
        "sparsity": 0.95,
        "projections": 24,
        "first": 0.0,
        "mu": 300.0,
        "growth": 1.35,
    },
    decision_options={"fine_tune_epochs": 5, "rate_weights": (0.03,)},
    pretrain_epochs=5,
    published=(Published("Pruned and retrained", "Han et al. 2015", 1.59, weights_left_percent=8.0, rival=True),),
    chosen_on=(
        "validation, seed 0, from one trained network (1.90 %): of two, μ from 300 to 3e5 stood at 3.80 % after 11 "
        "epochs, μ from 10 to 1e4 ended at 4.96 % after 10; stages and rate weight: nothing"
    ),
)
