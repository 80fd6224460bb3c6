"""LeNet-5 by maximum likelihood on images shifted, turned and scaled: the teacher of another entry."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="lenet-5/none-augmented",
    network="lenet-5",
    prior="none",
    data="mnist",
    method="map",
    method_options={"epochs": 40},
    decision_options={"fine_tune_epochs": 0},
    augmentation_options={"shift": 1, "rotate": 10, "scale": 0.1},
    chosen_on="nothing: images change as for lenet-5/log-uniform-augmented, for as many epochs",
)
