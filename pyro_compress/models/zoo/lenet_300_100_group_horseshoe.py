"""LeNet-300-100 under the group horseshoe prior (BC-GHS)."""

from pyro_compress.models.zoo.entry import UNRECORDED, Entry, Published

ENTRY = Entry(
    name="lenet-300-100/group-horseshoe",
    network="lenet-300-100",
    prior="group-horseshoe",
    data="mnist",
    method_options={"epochs": 30, "kl_weight": 0.1},
    decision_options={
        "rate_weights": (0.05, 0.1),
        "fine_tune_epochs": 20,
        "tolerance_points": 0.2,
        "fine_tune_noise": 0.5,
    },
    published=(
        Published(
            "BC-GHS",
            "Louizos et al. 2017 (errors 1.8 to 2.0 %)",
            1.9,
            9,
            23,
            59,
            "311-86-14",
            bits="13-11-10",
            weights_left_percent=10.6,
        ),
    ),
    chosen_on=UNRECORDED,
)
