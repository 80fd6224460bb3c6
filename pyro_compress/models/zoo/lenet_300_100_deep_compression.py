"""LeNet-300-100 by Deep Compression: pruned by magnitude and retrained, 64 shared values per layer that are trained."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-300-100/deep-compression",
    network="lenet-300-100",
    prior="none",
    data="mnist",
    method="magnitude-pruning",
    method_options={
        "epochs": 24,
        "sparsity": {"fc1.*": 0.92, "fc2.*": 0.91, "fc3.*": 0.74},
        "cuts": 4,
        "first": 0.25,
        "last": 0.625,
    },
    decision_options={
        "quantizer": "codebook",
        "levels": 64,
        "level_start": "linear",
        "fine_tune_moves": "quantizer",
        "fine_tune_epochs": 4,
        "rate_weights": (0.0,),
    },
    published=(Published("Deep Compression", "Han et al. 2016", 1.6, 6, None, 40, weights_left_percent=8.0),),
    chosen_on="nothing: shares of weights, levels and their start as published, epochs that take minutes",
)
