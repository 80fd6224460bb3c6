"""The small CNN on the embedded digits by maximum likelihood: the teacher of `distil/digits`."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="digits-cnn/none",
    network="digits-cnn",
    prior="none",
    data="digits",
    method="map",
    method_options={"epochs": 30, "batch_size": 64},
    decision_options={"fine_tune_epochs": 0},
    chosen_on="nothing: default settings",
)
