"""LeNet-300-100 under the log-uniform prior, taught by a LeNet-5 about every image as it was changed."""

from pyro_compress.models.zoo.entry import Entry

ENTRY = Entry(
    name="distil/lenet-300-100",
    network="lenet-300-100",
    prior="log-uniform",
    data="mnist",
    method_options={"epochs": 60, "kl_weight": 2.0},
    decision_options={
        "rate_weights": (4.0, 8.0, 16.0),
        "further_stages": 3,
        "fine_tune_epochs": 20,
        "tolerance_points": 0.2,
        "stage_tolerance_points": 0.2,
        "fine_tune_noise": 0.5,
    },
    augmentation_options={"shift": 1, "rotate": 10, "scale": 0.1},
    teacher="lenet-5/none-augmented",
    teacher_weight=0.9,
    temperature=4.0,
    chosen_on="β: nothing, a guess of seven times that of lenet-300-100/log-uniform, as λ T² = 14 makes data count for "
    "more; the stages: seed 0 without changed images, on whose validation examples γ = 1, 2, 4 and 8 were all kept",
)
