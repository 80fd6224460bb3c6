"""LeNet-300-100 in integers of 4 bits with a zero point for each unit, trained through, with learned steps."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="lenet-300-100/int4",
    network="lenet-300-100",
    prior="none",
    data="mnist",
    method="map",
    method_options={"epochs": 12, "schedule": "linear"},
    decision_options={
        "quantizer": "int4_per_channel",
        "range_by": "least_squares",
        "fine_tune_moves": "both",
        "fine_tune_epochs": 4,
        "rate_weights": (0.0,),
    },
    chosen_on="nothing: steps that start at the least squared error and are learned",
)
