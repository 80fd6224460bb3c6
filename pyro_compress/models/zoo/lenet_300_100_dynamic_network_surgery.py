"""LeNet-300-100 under dynamic network surgery."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-300-100/dynamic-network-surgery",
    network="lenet-300-100",
    prior="none",
    data="mnist",
    method="dynamic-network-surgery",
    method_options={
        "epochs": 16,
        "batch_size": 64,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "c": 2.5,
        "gamma": 1e-3,
    },
    decision_options={"fine_tune_epochs": 0},
    pretrain_epochs=6,
    published=(
        Published("DNS", "Guo et al. 2016, as in Louizos et al. 2017", 1.99, 28, weights_left_percent=1.8),
        Published("Pruned and retrained", "Han et al. 2015", 1.59, weights_left_percent=8.0),
    ),
    chosen_on="validation, seed 0: this c with SGD against c = 1.2 with Adam, under which weights kept coming back",
)
