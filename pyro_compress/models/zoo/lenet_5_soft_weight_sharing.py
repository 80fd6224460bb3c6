"""LeNet-5 under one mixture of normals over all its weights (soft weight sharing)."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-5/soft-weight-sharing",
    network="lenet-5",
    prior="soft-weight-sharing",
    data="mnist",
    # components that start as narrow as they are far apart do not gather at zero
    prior_options={"deviation": 0.05, "zero_share": 0.999},
    method="map",
    method_options={
        "epochs": 12,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "rates": {"hyper": 0.2, "scale": 6.0},
        "kl_weight": 0.2,
        "kl_warmup": 0.8,
    },
    decision_options={"fine_tune_epochs": 4, "rate_weights": (0.1, 0.3)},
    pretrain_epochs=5,
    published=(Published("SWS", "Ullrich et al. 2017", 0.97, None, None, 162, weights_left_percent=0.5),),
    chosen_on="nothing: as lenet-300-100/soft-weight-sharing, with fewer epochs on the levels",
)
