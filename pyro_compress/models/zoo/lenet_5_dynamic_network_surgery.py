"""LeNet-5 under dynamic network surgery."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-5/dynamic-network-surgery",
    network="lenet-5",
    prior="none",
    data="mnist",
    method="dynamic-network-surgery",
    method_options={
        "epochs": 20,
        "batch_size": 64,
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "c": {"conv1*": 1.2, "conv2*": 2.7, "fc1*": 4.0, "fc2*": 2.5},
        "gamma": 1e-3,
    },
    decision_options={"fine_tune_epochs": 0},
    pretrain_epochs=5,
    published=(
        Published("DNS", "Guo et al. 2016, as in Louizos et al. 2017", 0.91, 55, None, 108, weights_left_percent=0.9),
        Published("Deep Compression", "Han et al. 2016", 0.7, 6, None, 39, weights_left_percent=8.0),
    ),
    chosen_on=(
        "nothing: c is a little above where half-normal weights would leave the published 14.2, 3.1, 0.7 and 4.3 % of "
        "the layers, since weights grow"
    ),
)
