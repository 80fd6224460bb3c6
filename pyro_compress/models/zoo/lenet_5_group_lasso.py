"""LeNet-5 under the group lasso."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-5/group-lasso",
    network="lenet-5",
    prior="none",
    data="mnist",
    method="group-lasso",
    method_options={"epochs": 16, "strength": {"conv*": 20.0, "fc*": 7.0}},
    decision_options={"fine_tune_epochs": 0},
    pretrain_epochs=5,
    published=(Published("GL", "Wen et al. 2016, as in Louizos et al. 2017", 1.0, architecture="3-12-192-500"),),
    chosen_on="nothing: λ of dense layers near that of LeNet-300-100, three times as much for the few filters",
)
