"""A variational autoencoder of the 8 × 8 digits, binarised once: seconds on one core."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="vae/digits",
    network="vae-digits",
    prior="log-uniform",
    data="digits",
    likelihood="bernoulli",
    binarisation="static",
    method_options={"epochs": 100, "batch_size": 64, "learning_rate": 1e-2, "schedule": "linear"},
    decision_options={"fine_tune_epochs": 30, "fine_tune_rate": "code", "further_stages": 5, "tolerance_nats": 0.75},
    chosen_on=(
        "β = 1; epochs, batch size and rate are those of a first run that ended flat. Epochs, number of stages "
        "and rate by bytes at equal nats on the validation examples of seed 0; the tolerance leaves a quarter of a nat "
        "to what those examples flatter"
    ),
)
