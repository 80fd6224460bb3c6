"""A variational autoencoder of binarised MNIST, sparse in its decoder."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="vae/mnist",
    network="vae-mnist",
    prior="log-uniform",
    data="mnist",
    likelihood="bernoulli",
    binarisation="static",
    method_options={"epochs": 60, "batch_size": 100, "learning_rate": 2e-3, "schedule": "linear"},
    decision_options={"rate_weights": (2.0, 8.0), "further_stages": 3, "fine_tune_epochs": 5},
    chosen_on="nothing: β = 1; epochs, batch size, rate and stages are those of a first run, whose ELBO still rose",
)
