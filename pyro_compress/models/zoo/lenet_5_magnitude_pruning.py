"""LeNet-5 pruned by magnitude, cut by cut, while it is trained."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-5/magnitude-pruning",
    network="lenet-5",
    prior="none",
    data="mnist",
    method="magnitude-pruning",
    method_options={
        "epochs": 15,
        "sparsity": {"conv1.*": 0.34, "conv2.*": 0.88, "fc1.*": 0.92, "fc2.*": 0.81},
        "cuts": 4,
        "first": 0.2,
        "last": 0.6,
    },
    decision_options={"fine_tune_epochs": 0},
    published=(Published("Pruned and retrained", "Han et al. 2015", 0.77, weights_left_percent=8.0),),
    chosen_on="nothing: shares of weights of lenet-5/deep-compression",
)
