"""LeNet-5 under log-uniform priors on groups and on single weights at once."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="lenet-5/group-log-uniform",
    network="lenet-5",
    prior="group-log-uniform",
    data="mnist",
    method_options={"epochs": 14},
    decision_options={"tolerance_points": 0.5, "stage_tolerance_points": 0.3},
    pretrain_epochs=5,
    chosen_on="β = 1 and epochs: nothing, they are those of lenet-5/log-uniform; the stages' tolerance: seed 1, on "
    "whose validation examples every stage cost between 0.24 and 0.30 points",
)
