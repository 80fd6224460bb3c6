"""LeNet-300-100 under the log-uniform prior."""

from pyro_compress.models.zoo.entry import UNRECORDED, Entry, Published

ENTRY = Entry(
    name="lenet-300-100/log-uniform",
    network="lenet-300-100",
    prior="log-uniform",
    data="mnist",
    method_options={"epochs": 60, "kl_weight": 0.3},
    decision_options={
        "rate_weights": (0.1, 0.15),
        "fine_tune_epochs": 20,
        "tolerance_points": 0.2,
        "stage_tolerance_points": 0.2,
        "fine_tune_noise": 0.5,
    },
    published=(
        Published(
            "Sparse VD",
            "Molchanov et al. 2017, as in Louizos et al. 2017",
            1.8,
            21,
            84,
            113,
            "512-114-72",
            bits="8-11-14",
            weights_left_percent=2.2,
        ),
        Published("Deep Compression", "Han et al. 2016", 1.6, 6, None, 40, weights_left_percent=8.0),
        Published("SWS", "Ullrich et al. 2017", 1.9, 12, None, 64, weights_left_percent=4.3),
        Published("Entropy-penalised", "Oktay et al. 2020", 1.9, file_bytes=8560),
    ),
    chosen_on=UNRECORDED,
)
