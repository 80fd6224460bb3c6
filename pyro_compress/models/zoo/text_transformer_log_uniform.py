"""The next character of Python's help pages, by a small transformer under the log-uniform prior."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="text-transformer/log-uniform",
    network="text-transformer",
    prior="log-uniform",
    data="python-topics",
    likelihood_options={"class_axis": -1},
    method_options={
        "epochs": 40,
        "batch_size": 32,
        "schedule": "linear",
        "kl_warmup": 0.3,
    },
    decision_options={
        "tolerance_points": 0.3,
        "stage_tolerance_points": 0.9,
        "fine_tune_batch_size": 32,
        "fine_tune_learning_rate": 5e-4,
        "rate_weights": (4.0, 5.5, 6.5, 7.0),
        "further_stages": 1,
    },
    pretrain_epochs=25,
    pretraining_options={
        "batch_size": 32,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "rate_warmup": 0.05,
        "clip": 1.0,
    },
    chosen_on="validation, seed 0: rates and γ; β = 1; a window has 64 targets, so that a bit is cheap",
)
