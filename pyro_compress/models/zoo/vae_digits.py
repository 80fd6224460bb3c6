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
    chosen_on="nothing: β = 1; epochs, batch size and rate are those of a first run that ended flat",
)
