"""64-16-10 on the embedded digits, taught by a small CNN at temperature 4."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="distil/digits",
    network="digits-tanh",
    prior="none",
    data="digits",
    method="map",
    method_options={"epochs": 30, "batch_size": 64},
    decision_options={"fine_tune_epochs": 0},
    teacher="digits-cnn/none",
    teacher_weight=0.9,
    temperature=4.0,
    chosen_on="nothing: default settings",
)
