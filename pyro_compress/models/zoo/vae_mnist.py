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
    decision_options={"rate_weights": (9.5, 10.0), "fine_tune_epochs": 100},
    chosen_on=(
        "validation, seed 0: γ and the epochs of a stage, for the smallest file that loses a nat, among 5, 40 and 100 "
        "epochs and γ of 8 to 32; β = 1, epochs, batch size and rate of the fit are those of a first run, whose ELBO "
        "still rose"
    ),
)
