"""LeNet-5 under the log-uniform prior."""

from pyro_compress.models.zoo.entry import UNRECORDED, Entry, Published

ENTRY = Entry(
    name="lenet-5/log-uniform",
    network="lenet-5",
    prior="log-uniform",
    data="mnist",
    method_options={"epochs": 14},
    decision_options={"tolerance_points": 0.5},
    pretrain_epochs=5,
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
            weights_left_percent=0.7,
        ),
        Published("Entropy-penalised", "Oktay et al. 2020", 1.0, file_bytes=2840),
    ),
    chosen_on=UNRECORDED,
)
