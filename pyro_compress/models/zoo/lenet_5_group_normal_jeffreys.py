"""LeNet-5 under the group normal-Jeffreys prior (BC-GNJ)."""

from pyro_compress.models.zoo.entry import UNRECORDED, Entry, Published

ENTRY = Entry(
    name="lenet-5/group-normal-jeffreys",
    network="lenet-5",
    prior="group-normal-jeffreys",
    data="mnist",
    method_options={"epochs": 12, "kl_weight": 0.2},
    decision_options={"rate_weights": (0.5, 1.0), "tolerance_points": 0.5},
    pretrain_epochs=5,
    published=(
        Published(
            "BC-GNJ",
            "Louizos et al. 2017",
            1.0,
            108,
            361,
            573,
            "8-13-88-13",
            bits="18-10-7-9",
            weights_left_percent=0.9,
        ),
    ),
    chosen_on=UNRECORDED,
)
