"""LeNet-300-100 of low rank: factors of the trained layers, trained on, then under the log-uniform prior."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-300-100/low-rank",
    network="lenet-300-100",
    prior="log-uniform",
    data="mnist",
    pretrain_epochs=10,
    rewrites=({"name": "low-rank", "rank": {"fc1": 40, "fc2": 30}},),
    retrain_epochs=5,
    method_options={"epochs": 30, "kl_weight": 0.3},
    decision_options={
        "rate_weights": (0.15,),
        "fine_tune_epochs": 10,
        "tolerance_points": 0.2,
        "stage_tolerance_points": 0.2,
        "fine_tune_noise": 0.5,
    },
    published=(
        Published("Low rank, ranks learned", "Idelbayev & Carreira-Perpiñán, LC toolkit, examples/lenet300", 1.9),
        Published("Sparse VD", "Molchanov et al. 2017, as in Louizos et al. 2017", 1.8, 21, 84, 113, "512-114-72"),
    ),
    chosen_on=(
        "ranks: the smallest of four pairs whose factors err at most 0.3 points more on the validation examples than "
        "the trained network, seed 0, before they are trained on; β and rate weight: of lenet-300-100/log-uniform"
    ),
)
