"""LeNet-5 under one mixture of normals over all its weights (soft weight sharing)."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-5/soft-weight-sharing",
    network="lenet-5",
    prior="soft-weight-sharing",
    data="mnist",
    method="map",
    method_options={
        "epochs": 30,
        "batch_size": 256,
        "learning_rate": 5e-4,
        "schedule": "constant",
        "rates": {"hyper": 0.2, "scale": 6.0},
        "kl_weight": 0.003,
    },
    # nothing is trained on the levels afterwards
    decision_options={"fine_tune_epochs": 0},
    pretrain_epochs=20,
    published=(Published("SWS", "Ullrich et al. 2017", 0.97, None, None, 162, weights_left_percent=0.5),),
    chosen_on="nothing: rates, τ, mixture and hyper-priors as published",
)
