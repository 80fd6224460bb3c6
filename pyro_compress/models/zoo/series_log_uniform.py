"""The demand for electricity over the next half day, under the log-uniform prior."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="series/log-uniform",
    network="series",
    prior="log-uniform",
    data="electricity",
    likelihood="gaussian",
    method_options={"epochs": 60, "batch_size": 64, "learning_rate": 2e-3},
    decision_options={
        "tolerance_points": 0.1,
        "fine_tune_batch_size": 64,
        "fine_tune_learning_rate": 2e-3,
        "rate_weights": (4.0, 8.0, 16.0, 32.0),
        "further_stages": 1,
    },
    pretrain_epochs=20,
    chosen_on=(
        "validation of seed 0: the larger rate weights of two; else nothing, β = 1; "
        "tolerances are about 2 % of the root mean squared error"
    ),
)
