"""A network that is small from the start, under the log-uniform prior, on images shifted by a pixel."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="tiny-cnn/log-uniform",
    network="tiny-cnn",
    prior="log-uniform",
    data="mnist",
    method_options={"epochs": 60, "learning_rate": 5e-3},
    decision_options={
        "fine_tune_epochs": 20,
        "fine_tune_learning_rate": 2e-3,
        "rate_weights": (1.0, 2.0, 4.0),
        "further_stages": 2,
        "stage_tolerance_points": 0.2,
    },
    augmentation_options={"shift": 1},
    chosen_on="nothing: β = 1; the network, rates and epochs are those of the first run of it that was made",
)
