"""Variational Network Quantization on LeNet-5 (Achterhold et al. 2018): before and after pruning and quantising."""

from pyro_compress.tables.definitions.networks import BITS, BYTES, KEPT, RATE
from pyro_compress.tables.spec import Column, Fit, Row, Table

BEFORE = Column("error before %", "error_before_percent")
AFTER = Column("error after %", "error_after_percent")
VNQ = Fit("lenet-5/variational-network-quantization")
SOURCE = "Achterhold et al. 2018"
TABLE = Table(
    "vnq-mnist",
    "LeNet-5 on MNIST: three values per layer",
    (
        Row("plain LeNet-5", None, {BEFORE.heading: 0.8}, SOURCE),
        Row(
            "VNQ from a trained network",
            VNQ,
            {BEFORE.heading: 0.67, AFTER.heading: 0.73, KEPT.heading: 28.3, BITS.heading: "2-2-2-2"},
            SOURCE,
        ),
        Row(
            "VNQ from random weights",
            VNQ.with_arguments("--pretrain-epochs", "0"),
            {AFTER.heading: 0.73, KEPT.heading: 17.7, BITS.heading: "2-2-2-2"},
            SOURCE,
        ),
        # with Bayes' β = 1 a tenth of the weights that are published to be left are left
        Row("VNQ from a trained network, β = 0.1", VNQ.with_arguments("--kl-weight", "0.1")),
        Row("VNQ, 195 epochs as published", VNQ.with_arguments("--epochs", "195", "--set", "method.kl_warmup=0.077")),
        Row("VNQ of LeNet-300-100, 20 epochs", Fit("lenet-300-100/variational-network-quantization")),
    ),
    (BEFORE, AFTER, KEPT, BITS, BYTES, RATE),
    notes=(
        "'Before' is the posterior mean with nothing pruned and nothing quantised. Nothing is trained afterwards but "
        "in the row of LeNet-300-100: on its levels, five epochs a stage.",
    ),
)
