"""Deep Cox regression of recurrence or death in breast cancer: learned in Rotterdam, tested on the German trial."""

from pyro_compress.models.zoo.entry import Entry

# intervals of as many events of the training part each, rounded
BREAKS = (0.9, 1.6, 2.3, 3.5, 5.5, 20.0)

ENTRY = Entry(
    name="survival/gbsg",
    network="survival",
    prior="log-uniform",
    data="gbsg",
    likelihood="piecewise-exponential",
    likelihood_options={"breaks": BREAKS},
    method_options={"epochs": 200, "batch_size": 64, "learning_rate": 1e-2},
    pretrain_epochs=20,
    chosen_on="nothing: β = 1; epochs, batch size and rate are those of a first run that ended flat",
)
