"""LeNet-5 of low rank: factors of the trained conv2 and fc1, trained on, then under the log-uniform prior."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-5/low-rank",
    network="lenet-5",
    prior="log-uniform",
    data="mnist",
    pretrain_epochs=5,
    rewrites=({"name": "low-rank", "rank": {"conv2": 15, "fc1": 20}, "scheme": "spatial"},),
    retrain_epochs=3,
    method_options={"epochs": 12, "kl_weight": 0.3},
    decision_options={"rate_weights": (0.15,), "fine_tune_epochs": 3},
    published=(
        Published(
            "Sparse VD",
            "Molchanov et al. 2017, as in Louizos et al. 2017",
            1.0,
            63,
            228,
            365,
            "14-19-242-131",
            bits="13-10-8-12",
            rival=True,
        ),
    ),
    chosen_on="nothing: β and rate weight of lenet-300-100/low-rank, 9 % of the weights",
)
