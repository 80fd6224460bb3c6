"""LeNet-5 under the multi-spike prior, ternary (Variational Network Quantization), for a third of its epochs."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-5/variational-network-quantization",
    network="lenet-5",
    prior="multi-spike",
    data="mnist",
    method_options={
        "epochs": 60,
        "schedule": "linear",
        "kl_warmup": 0.25,
        "rates": {"hyper": 0.01, "log_variance": 1.0},
    },
    # nothing is trained on the levels afterwards
    decision_options={"fine_tune_epochs": 0},
    pretrain_epochs=5,
    published=(
        Published("VNQ", "Achterhold et al. 2018", 0.73, bits="2-2-2-2", weights_left_percent=28.3),
        Published(
            "VNQ, from random weights", "Achterhold et al. 2018", 0.73, bits="2-2-2-2", weights_left_percent=17.7
        ),
        Published("VNQ, before pruning and quantisation", "Achterhold et al. 2018", 0.67),
    ),
    chosen_on="nothing: as published, but for 60 epochs in place of 195",
)
