"""A small CNN on the embedded digits under the group horseshoe prior: the demonstration."""

from pyro_compress.models.zoo.entry import UNRECORDED, Entry

ENTRY = Entry(
    name="digits-cnn/group-horseshoe",
    network="digits-cnn",
    prior="group-horseshoe",
    data="digits",
    method_options={"epochs": 80, "batch_size": 64, "learning_rate": 4e-3, "kl_weight": 0.2},
    decision_options={},
    chosen_on=UNRECORDED,
)
