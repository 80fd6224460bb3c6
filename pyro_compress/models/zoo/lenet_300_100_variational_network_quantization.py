"""LeNet-300-100 under the multi-spike prior: three values per layer."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-300-100/variational-network-quantization",
    network="lenet-300-100",
    prior="multi-spike",
    data="mnist",
    method_options={
        "epochs": 20,
        "schedule": "linear",
        "kl_warmup": 0.2,
        "rates": {"hyper": 0.01, "log_variance": 1.0},
    },
    decision_options={"fine_tune_epochs": 5, "rate_weights": (0.1, 0.3)},
    pretrain_epochs=5,
    published=(
        Published("Deep Compression", "Han et al. 2016", 1.6, 6, None, 40, weights_left_percent=8.0, rival=True),
        Published("SWS", "Ullrich et al. 2017", 1.9, 12, None, 64, weights_left_percent=4.3, rival=True),
    ),
    chosen_on="rates as published for LeNet-5, a tenth of its epochs; stages, against none, on validation with seed 0",
)
