"""The class of every pixel of a canvas of digits, by a U-Net under the log-uniform prior."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="unet/log-uniform",
    network="unet",
    prior="log-uniform",
    data="digit-scenes",
    method_options={"epochs": 40, "batch_size": 32, "learning_rate": 2e-3, "schedule": "linear"},
    decision_options={
        "stage_tolerance_points": 0.3,
        "fine_tune_batch_size": 32,
        "rate_weights": (4.0, 8.0, 16.0),
        "further_stages": 3,
    },
    pretrain_epochs=40,
    pretraining_options={"batch_size": 32, "learning_rate": 3e-3},
    chosen_on=(
        "validation, seed 0: pretraining in batches of 32 against 128, which had not begun to tell digits apart, and "
        "γ from 4 against γ from ½: an example has 576 labels, so that a bit is cheap"
    ),
)
