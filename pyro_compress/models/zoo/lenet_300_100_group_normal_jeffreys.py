"""LeNet-300-100 under the group normal-Jeffreys prior (BC-GNJ)."""

from pyro_compress.models.zoo.entry import UNRECORDED, Entry, Published

ENTRY = Entry(
    name="lenet-300-100/group-normal-jeffreys",
    network="lenet-300-100",
    prior="group-normal-jeffreys",
    data="mnist",
    method_options={"epochs": 60, "kl_weight": 0.05},
    decision_options={
        "rate_weights": (0.1,),
        "fine_tune_epochs": 15,
        "tolerance_points": 0.2,
        "stage_tolerance_points": 0.2,
        "teacher_draws": 20,
        "fine_tune_noise": 0.5,
    },
    published=(
        Published(
            "BC-GNJ", "Louizos et al. 2017", 1.8, 9, 36, 58, "278-98-13", bits="8-9-14", weights_left_percent=10.8
        ),
    ),
    chosen_on=UNRECORDED,
)
