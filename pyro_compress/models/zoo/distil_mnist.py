"""784-128-128-10 taught by a CNN at temperature 4 (Hinton, Vinyals & Dean 2015)."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="distil/mnist",
    network="mlp-128-128",
    prior="none",
    data="mnist",
    method="map",
    method_options={"epochs": 10, "batch_size": 64, "learning_rate": 3e-3},
    decision_options={"fine_tune_epochs": 0},
    teacher="mnist-cnn/none",
    teacher_weight=0.9,
    temperature=4.0,
    published=(
        Published("distilled", "slides on distillation (10 epochs, batch 64, T = 4)", 1.29),
        Published("student alone", "slides on distillation (10 epochs, batch 64)", 3.68, rival=True),
    ),
    chosen_on="epochs, batch and T as published, λ as is usual; the rate by validation examples, seeds 10 and 11",
)
