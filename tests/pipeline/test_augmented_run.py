"""A run on images that change, refined by the Fisher information: what its file is of, and what it says."""

import json
from pathlib import Path

import numpy as np

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.pipeline.settings import RunSettings, settings_from_entry
from pyro_compress.pipeline.steps import load_data
from tests.pipeline.conftest import Cli

QUICK = (
    "--network",
    "digits-mlp",
    "--prior",
    "none",
    "--epochs",
    25,
    "--threads",
    1,
    "--examples",
    600,
    "--set",
    "method.learning_rate=0.01",
)
TUNED = ("--set", "decision.fine_tune_epochs=1", "--set", "decision.rate_weights=(1.0,)")


def test_a_run_on_changing_images_says_so_and_is_refined_without_a_variance(cli: Cli, user: Path) -> None:
    augmented = ("--set", "augmentation.shift=1", "--set", "augmentation.rotate=8")
    by_fisher = ("--set", "decision.refine_by=fisher")
    ran = cli("run", *QUICK, *TUNED, *augmented, *by_fisher, "--out", "run")
    assert ran.code == 0, ran.err
    results = json.loads((user / "run" / "results.json").read_text())
    assert results["data_description"]["augmentation"] == "rotate 8°, shift 1 px"
    assert results["data_description"]["N"] == 600 and results["error_after_percent"] < 15
    assert RunSettings.load(user / "run" / "settings.json").augmentation_options == {"shift": 1, "rotate": 8}
    # point estimates have no variance within which they may move, and the data say how far they may
    assert "refined to" in ran.err
    decision = Decision.load(user / "run" / "decision.safetensors")
    assert decision.made_by["price_nats_per_bit"] != 0
    assert not any(site.variance.any() for site in decision.sites.values())
    moved = decision.sites["fc1.weight"]
    assert moved.aim is not None and moved.quantizer is not None
    assert np.abs(moved.aim - moved.stored()).max() > moved.quantizer.spacing(2).max() / 2


def test_data_of_a_run_are_augmented_where_it_says_so() -> None:
    settings = settings_from_entry("digits-cnn/group-horseshoe", augmentation_options={"shift": 1})
    assert load_data(settings, None).augmentation is not None
    assert load_data(settings_from_entry("digits-cnn/group-horseshoe"), None).augmentation is None
