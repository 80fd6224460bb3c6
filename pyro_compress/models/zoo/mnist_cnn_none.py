"""A CNN with dropout by maximum likelihood: the teacher of `distil/mnist`."""

from pyro_compress.models.zoo.entry import Entry, Published

ENTRY = Entry(
    name="mnist-cnn/none",
    network="mnist-cnn",
    prior="none",
    data="mnist",
    method="map",
    method_options={"epochs": 10, "batch_size": 64},
    decision_options={"fine_tune_epochs": 0},
    published=(Published("teacher, not compressed", "slides on distillation (10 epochs, batch 64)", 0.76),),
    chosen_on="nothing: epochs and batch as published, dropout ¼ and ½ and the method's own rate",
)
