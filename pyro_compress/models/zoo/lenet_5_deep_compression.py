"""LeNet-5 by Deep Compression: 256 shared values in convolutions and 32 in dense layers, which are trained."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-5/deep-compression",
    network="lenet-5",
    prior="none",
    data="mnist",
    method="magnitude-pruning",
    method_options={
        "epochs": 12,
        "sparsity": {"conv1.*": 0.34, "conv2.*": 0.88, "fc1.*": 0.92, "fc2.*": 0.81},
        "cuts": 3,
        "first": 0.25,
        "last": 0.6,
    },
    decision_options={
        "quantizer": "codebook",
        "levels": {"conv*": 256, "fc*": 32},
        "level_start": "linear",
        "fine_tune_moves": "quantizer",
        "fine_tune_epochs": 2,
        "rate_weights": (0.0,),
    },
    published=(Published("Deep Compression", "Han et al. 2016", 0.7, 6, None, 39, weights_left_percent=8.0),),
    chosen_on="nothing: shares of weights, levels and their start as published, epochs that take minutes",
)
