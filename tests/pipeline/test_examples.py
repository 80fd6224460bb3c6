"""A fit to part of the training examples, and a posterior that proposes for another method."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_compress.data.examples import as_data
from pyro_compress.data.named import load
from pyro_compress.pipeline.settings import RunSettings, settings_from_entry
from pyro_compress.pipeline.steps import load_data, with_examples
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import Posterior
from tests.pipeline.conftest import Cli

MINE = ("--network", "mine:net", "--prior", "normal", "--data", "mine:data", "--threads", "1")


def test_part_of_the_examples_is_stratified_and_the_same_for_all_runs() -> None:
    whole = load("digits")
    part = with_examples(whole, 300)
    assert len(part.train_x) == len(part.train_y) == part.N == 300
    shares = torch.bincount(whole.train_y) * 300 / len(whole.train_y)
    assert float((torch.bincount(part.train_y) - shares).abs().max()) < 1
    assert torch.equal(part.test_x, whole.test_x) and torch.equal(part.validation_y, whole.validation_y)
    assert torch.equal(with_examples(load("digits"), 300).train_x, part.train_x)
    assert with_examples(whole, len(whole.train_x)) is whole


def test_a_sample_of_a_larger_set_counts_what_is_taken() -> None:
    """The posterior is that given the examples taken, whatever they were a sample of."""
    sample = as_data((torch.randn(40, 2), torch.arange(40) % 4), N=1000)
    assert with_examples(sample, 20).N == 20


def test_an_entrys_examples_are_taken_and_can_be_replaced() -> None:
    assert settings_from_entry("mnist-softmax/normal").examples == 2000
    settings = settings_from_entry("digits-softmax/normal", examples=100)
    assert load_data(settings, None).N == 100


def test_fit_and_run_take_examples_and_keep_the_number(cli: Cli, user: Path) -> None:
    fitted = cli("fit", *MINE, "--examples", 50, "--epochs", 1, "--out", "fitted")
    assert fitted.code == 0, fitted.err
    assert RunSettings.load(user / "fitted" / "settings.json").examples == 50
    assert Posterior.load(user / "fitted" / "posterior.safetensors").provenance["N"] == 50
    # every later step sees the same examples
    assert "log joint of 200 draws of the guide on 50 training examples" in cli("diagnose", "fitted").err
    whole = cli(
        "run", *MINE, "--examples", 50, "--epochs", 1, "--set", "decision.fine_tune_epochs=0", "--out", "run", "--json"
    )
    assert whole.code == 0, whole.err
    assert json.loads(whole.out)["data_description"]["N"] == 50


@pytest.mark.filterwarnings("default")
def test_another_runs_posterior_proposes(cli: Cli, user: Path) -> None:
    proposing = cli(
        "fit", *MINE, "--examples", 5, "--epochs", 300, "--set", "method.learning_rate=0.02", "--out", "svi"
    )
    assert proposing.code == 0, proposing.err
    words = (*MINE, "--examples", 5, "--inference", "importance", "--draws", 500)
    assert cli("fit", *words, "--out", "prior").code == 0
    assert cli("fit", *words, "--set", "method.proposal=svi", "--out", "guided").code == 0
    assert RunSettings.load(user / "guided" / "settings.json").method_options["proposal"] == str(user / "svi")
    drawn: list[Draws] = []
    for name, proposal in (("prior", "prior"), ("guided", "posterior of SVI")):
        posterior = Posterior.load(user / name / "posterior.safetensors")
        assert posterior.draws is not None
        assert str(posterior.provenance["proposal"]).startswith(proposal)
        drawn.append(posterior.draws)
    # proposals lie where the posterior is
    likelihoods = [np.median(draws.statistics["log_likelihood"]) for draws in drawn]
    assert likelihoods[1] > likelihoods[0] + 4
