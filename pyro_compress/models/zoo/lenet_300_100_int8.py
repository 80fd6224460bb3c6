"""LeNet-300-100 in integers of 8 bits with a zero point, after training."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="lenet-300-100/int8",
    network="lenet-300-100",
    prior="none",
    data="mnist",
    method="map",
    method_options={"epochs": 12, "schedule": "linear"},
    decision_options={"quantizer": "int8", "fine_tune_epochs": 0},
    chosen_on="nothing: what eight bits after training are",
)
