"""LeNet-5 with learned steps and a learned model of the integers (entropy-penalised reparameterization)."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="lenet-5/entropy-penalised",
    network="lenet-5",
    prior="entropy-penalised",
    data="mnist",
    method="map",
    method_options={
        "epochs": 30,
        "schedule": "linear",
        "rates": {"weight": 32.0, "scale": 3.0},
        "kl_weight": 0.1,
    },
    # nothing is trained on the grid afterwards
    decision_options={"fine_tune_epochs": 0},
    pretrain_epochs=5,
    published=(Published("Entropy-penalised", "Oktay et al. 2020", 1.0, file_bytes=2840),),
    chosen_on="nothing: the step is near that of log-uniform fits, λ is that of their grid training",
)
