"""LeNet-300-100 pruned by magnitude, cut by cut, while it is trained."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-300-100/magnitude-pruning",
    network="lenet-300-100",
    prior="none",
    data="mnist",
    method="magnitude-pruning",
    method_options={"epochs": 20, "sparsity": 0.92, "over": "network", "cuts": 8, "first": 0.2, "last": 0.6},
    decision_options={"fine_tune_epochs": 0},
    published=(
        Published("Pruned and retrained", "Han et al. 2015", 1.59, weights_left_percent=8.0),
        Published("Deep Compression", "Han et al. 2016", 1.6, 6, None, 40, weights_left_percent=8.0),
    ),
    chosen_on="nothing: the share kept as published, the cuts as they were first tried (seed 0)",
)
