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
        "c": {"conv*": 1.0, "fc*": 3.0},
        "gamma": 1e-3,
    },
    decision_options={"fine_tune_epochs": 0},
    pretrain_epochs=5,
    published=(
        Published("DNS", "Guo et al. 2016, as in Louizos et al. 2017", 0.91, 55, None, 108, weights_left_percent=0.9),
        Published("Deep Compression", "Han et al. 2016", 0.7, 6, None, 39, weights_left_percent=8.0),
    ),
    chosen_on=(
        "tried in short only: on 4,000 examples (seed 0, 4 and 6 epochs) 2.7 % of the weights were left, 0.3 points "
        "above the pretrained network on validation"
    ),
)
