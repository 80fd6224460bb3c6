"""LeNet-5 under the group horseshoe prior (BC-GHS)."""

from pyro_compress.models.zoo.entry import UNRECORDED, Entry, Published

ENTRY = Entry(
    name="lenet-5/group-horseshoe",
    network="lenet-5",
    prior="group-horseshoe",
    data="mnist",
    method_options={"epochs": 14, "kl_weight": 0.3},
    decision_options={"rate_weights": (0.5, 1.0, 1.5, 2.0), "tolerance_points": 0.5},
    pretrain_epochs=5,
    published=(
        Published(
            "BC-GHS",
            "Louizos et al. 2017",
            1.0,
            156,
            419,
            771,
            "5-10-76-16",
            bits="10-10-14-13",
            weights_left_percent=0.6,
        ),
        Published("MIRACLE", "Havasi et al. 2019", 0.96, file_bytes=1520),
        Published("MIRACLE", "Havasi et al. 2019", 0.69, file_bytes=3030),
    ),
    chosen_on=UNRECORDED,
)
