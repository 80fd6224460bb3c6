"""LeNet-300-100 of low rank: factors of the trained layers, trained on, then under the log-uniform prior."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-300-100/low-rank",
    network="lenet-300-100",
    prior="log-uniform",
    data="mnist",
    pretrain_epochs=10,
    rewrites=({"name": "low-rank", "rank": {"fc1": 30, "fc2": 20}},),
    retrain_epochs=5,
    method_options={"epochs": 20, "kl_weight": 0.3},
    decision_options={
        "rate_weights": (0.15,),
        "fine_tune_epochs": 6,
        "tolerance_points": 0.2,
        "stage_tolerance_points": 0.2,
        "fine_tune_noise": 0.5,
    },
    published=(
        Published("Low rank, ranks learned", "Idelbayev & Carreira-Perpiñán, LC toolkit, examples/lenet300", 1.9),
        Published(
            "Sparse VD",
            "Molchanov et al. 2017, as in Louizos et al. 2017",
            1.8,
            21,
            84,
            113,
            "512-114-72",
            weights_left_percent=2.2,
        ),
    ),
    chosen_on=(
        "ranks: one of four pairs held against the trained network on the validation examples, seed 0: its factors err "
        "2.84 % where that errs 1.90 %, and 1.90 % after the epochs that follow; β, rate weight: of "
        "lenet-300-100/log-uniform; epochs: not compared"
    ),
)
