"""Deep Cox regression of the time to arrest of 432 men released from prison: seconds on one core."""

from pyro_compress.models.zoo.entry import Entry

# intervals of as many events of the training part each, rounded
BREAKS = (0.26, 0.4, 0.58, 0.71, 0.85, 1.0)

ENTRY = Entry(
    name="survival/rossi",
    network="survival",
    prior="log-uniform",
    data="rossi",
    likelihood="piecewise-exponential",
    likelihood_options={"breaks": BREAKS},
    method_options={"epochs": 200, "batch_size": 64, "learning_rate": 1e-2},
    pretrain_epochs=20,
    chosen_on="nothing: β = 1; epochs, batch size and rate are those of a first run that ended flat",
)
