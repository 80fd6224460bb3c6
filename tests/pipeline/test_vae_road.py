"""An autoencoder on the road: from `run` to a file of its decoder, judged by nats that the bound loses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import pyro_compress as pc
from pyro_compress.artifact.runtimes.numpy_runtime import load as numpy_load
from pyro_compress.artifact.writing.artifact import load as load_artifact
from pyro_compress.data.named import load
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.likelihoods import Bernoulli
from pyro_compress.network.input_codes import InputCode
from pyro_compress.pipeline import decoder_scores, steps
from pyro_compress.pipeline.decoders import at_mean
from pyro_compress.pipeline.generating import figures_of_decoder
from pyro_compress.pipeline.settings import RunSettings
from pyro_compress.posterior.posterior import Posterior
from tests.pipeline.conftest import Called, Cli, cli, draw_nothing

Run = tuple[Path, Called]


@pytest.fixture(scope="module")
def vae_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("vae") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_compress.pipeline.evaluation.save_all", draw_nothing)
        patch.setattr(decoder_scores, "IMPORTANCE_SAMPLES", 50)
        called = cli(
            "run", "vae/digits", "--binarisation", "static", "--out", out, "--epochs", 15, "--threads", 1,
            "--set", "decision.fine_tune_epochs=1", "--set", "decision.rate_weights=[1.0]",
        )  # fmt: skip
    assert called.code == 0, called.err
    return out, called


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, no_figures: None) -> None:
    monkeypatch.setattr(decoder_scores, "IMPORTANCE_SAMPLES", 50)


def test_results_are_bounds_with_the_decoded_decoder_and_the_posteriors_encoder(vae_run: Run) -> None:
    out, _ = vae_run
    found = json.loads((out / "results.json").read_text())
    scores = found["generative"]
    settings = RunSettings.load(out / "settings.json")
    network = at_mean(settings.build_network(), Posterior.load(out / "posterior.safetensors"))  # type: ignore[arg-type]
    decoded = EncoderDecoder(network.encoder, load_artifact(out / "network.pyrc").to_torch(), network.codes)
    data = load("digits").reconstructing("static")
    bounds = []
    for each in (network, decoded):
        model = pc.VAE(each, {}, Bernoulli())
        bounds.append(pc.models.elbo(model, {}, data.test_x, samples=10, seed=0))
    assert scores["elbo_before_nats"] == pytest.approx(float(bounds[0].mean()), rel=1e-5)
    assert scores["elbo_after_nats"] == pytest.approx(float(bounds[1].mean()), rel=1e-5)
    lost = (bounds[0] - bounds[1]).double().numpy()
    assert scores["nats_lost"] == pytest.approx(lost.mean(), abs=1e-5)
    assert scores["nats_lost_standard_error"] == pytest.approx(lost.std() / np.sqrt(len(lost)), rel=1e-3)
    assert scores["log_likelihood_after_nats"] > scores["elbo_after_nats"]
    assert scores["binarisation"] == "static" == settings.binarisation
    assert scores["codes"] == "GaussianCodes(width=8)"


def test_no_key_of_the_results_means_something_else(vae_run: Run) -> None:
    out, _ = vae_run
    found = json.loads((out / "results.json").read_text())
    assert found["error_unit"] == "nats" and not {key for key in found if key.startswith("error") and "percent" in key}
    assert found["error_after_nats"] == pytest.approx(-found["generative"]["elbo_after_nats"])
    assert found["error_before_nats"] == pytest.approx(-found["generative"]["elbo_before_nats"])
    decoder = pc.models.networks.vae_digits().decoder
    assert found["original_bytes"] == 4 * sum(parameter.numel() for parameter in decoder.parameters())
    assert found["file_rate"] == pytest.approx(found["original_bytes"] / (vae_run[0] / "network.pyrc").stat().st_size)
    assert found["description_length_bits"] is None and "two_part_code_bits" not in found
    assert "binarisation" in found["data"] and found["data_description"]["binarisation"] == "static"


def test_what_is_printed_says_nats(vae_run: Run) -> None:
    _, called = vae_run
    assert "validation negative ELBO" in called.err and "what they rise by, the bound loses" in called.err
    assert "nats of the ELBO lost" in called.out and "binarisation" in called.out
    assert not any("points" in line or "% error" in line for line in (called.out + called.err).splitlines())
    assert not any("error" in line and "nats" not in line for line in (called.out + called.err).splitlines())


def test_later_steps_work_or_refuse(vae_run: Run, cli: Cli, tmp_path: Path, quick: None) -> None:
    run = tmp_path / "run"
    shutil.copytree(vae_run[0], run)
    resumed = cli("run", "--resume", run, "--json")
    assert resumed.code == 0 and json.loads(resumed.out) == json.loads((vae_run[0] / "results.json").read_text())
    diagnosed = cli("diagnose", run, "--json")
    assert diagnosed.code == 0, diagnosed.err
    assert any("codes of single examples" in note for note in json.loads(diagnosed.out)["notes"])
    refused = {
        ("diagnose", run, "--log-likelihood"): "autoencoder",
        ("uncertainty", run): "predicts no targets",
        ("analyse", run, "--set", "decision.teacher_draws=3"): "leave them out",
        ("evaluate", run / "network.pyrc", "--data", "digits"): "whose inputs are codes z ~ N(0, I)",
        ("generate", run, "--out", "grid.png", "--likelihood", "gaussian"): "says its likelihood",
    }
    for words, why in refused.items():
        called = cli(*words)
        assert called.code == 1 and why in called.err, (words, called.err)
        assert called.err.startswith("error: ") and called.err.count("\n") == 1
    whole = len((run / "network.pyrc").read_bytes())
    smaller = cli("compress", run, "--target-bytes", int(0.8 * whole))
    assert smaller.code == 0 and len((run / "network.pyrc").read_bytes()) <= 0.8 * whole
    known = json.loads((vae_run[0] / "results.json").read_text())["generative"]
    evaluated = cli("evaluate", run, "--json")
    assert json.loads(evaluated.out)["generative"]["nats_lost"] > known["nats_lost"]
    aimed = cli("compress", run, "--target-error", 1000)
    assert aimed.code == 0 and "nats" in aimed.err


def test_a_fit_by_hand_with_pretraining(cli: Cli, tmp_path: Path) -> None:
    words = ("--network", "vae-digits", "--prior", "normal", "--likelihood", "bernoulli", "--epochs", 1)
    found = cli("fit", *words, "--binarisation", "dynamic", "--pretrain-epochs", 1, "--out", tmp_path / "run")
    assert found.code == 0, found.err
    settings = RunSettings.load(tmp_path / "run" / "settings.json")
    assert settings.binarisation == "dynamic" and settings.reconstructs
    data = steps.load_data(settings, None)
    assert data.binarisation is not None and data.binarisation.is_dynamic
    assert (tmp_path / "run" / "initial.safetensors").exists()
    assert "pretraining epoch 1/1" in found.err


def test_examples_are_taken_before_they_lose_their_classes() -> None:
    settings = RunSettings(
        "vae-digits", "normal", "digits", likelihood="bernoulli", binarisation="static", examples=100
    )
    taken = steps.load_data(settings, None)
    _, labels = steps.with_examples(load("digits"), 100).part("train")
    assert len(taken.train_x) == 100 and torch.bincount(labels).min() >= 9
    assert set(taken.train_x.unique().tolist()) == {0.0, 1.0} and torch.equal(taken.train_y, taken.train_x.flatten(1))


def test_what_does_not_go_with_it_is_refused(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused = {
        ("run", "digits-softmax/normal", "--binarisation", "static"): "digits-softmax is none",
        ("run", "vae/digits", "--binarisation", "statik"): "unknown binarisation 'statik'",
        ("run", "vae/digits", "--teacher", "digits-softmax/normal"): "--teacher is for networks that predict",
        ("run", "vae/digits", "--rewrite", "low-rank:energy=0.9"): "--rewrite is for networks that predict",
        ("run", "vae/digits", "--likelihood", "categorical"): "reconstructs numbers and no classes",
        ("run", "vae/digits", "--inference", "hmc"): "use SVI(...)",
    }
    for words, why in refused.items():
        called = cli(*words, "--out", out)
        assert called.code == 1 and why in called.err, (words, called.err)
        assert not out.exists()


def test_generate_draws_codes_and_decodes_them_without_torch(vae_run: Run, cli: Cli, tmp_path: Path) -> None:
    path, out = vae_run[0] / "network.pyrc", tmp_path / "grid.png"
    called = cli("generate", path, "--out", out, "--rows", 2, "--columns", 3, "--seed", 7, "--likelihood", "bernoulli")
    assert called.code == 0 and "2 × 3 images" in called.out, called.err
    z = np.random.default_rng(7).standard_normal((6, 8)).astype(np.float32)
    means = 1 / (1 + np.exp(-numpy_load(path)(z)))
    np.testing.assert_allclose(pc.generate(path, 6, seed=7), means, atol=1e-6)
    pixels = imread(out)
    factor = pixels.shape[0] // 17
    assert pixels.shape[:2] == (17 * factor, 26 * factor)
    small = pixels[::factor, ::factor, 0]
    for number in range(6):
        down, right = 9 * (number // 3), 9 * (number % 3)
        image = small[down : down + 8, right : right + 8]
        np.testing.assert_allclose(image, means[number].reshape(8, 8), atol=2 / 255)
    again = cli("generate", vae_run[0], "--out", tmp_path / "again.png", "--rows", 2, "--columns", 3, "--seed", 7)
    assert again.code == 0 and (tmp_path / "again.png").read_bytes() == out.read_bytes()


def test_generate_refuses_what_is_no_decoder(vae_run: Run, cli: Cli, digits_run: Path, tmp_path: Path) -> None:
    for words, why in (
        ((digits_run, "--out", tmp_path / "a.png"), "is no decoder"),
        ((vae_run[0], "--out", tmp_path / "a.gif"), "are written as .png"),
    ):
        called = cli("generate", *words)
        assert called.code == 1 and why in called.err and called.err.count("\n") == 1, called.err


def test_the_file_says_what_its_code_is(vae_run: Run, cli: Cli) -> None:
    network = load_artifact(vae_run[0] / "network.pyrc").network
    assert network.architecture.code == InputCode("gaussian")
    assert "a code z ~ N(0, I)" in cli("inspect", vae_run[0]).out


def test_figures_are_of_the_decoded_file(vae_run: Run) -> None:
    artifact = load_artifact(vae_run[0] / "network.pyrc")
    settings = RunSettings.load(vae_run[0] / "settings.json")
    network = at_mean(settings.build_network(), Posterior.load(vae_run[0] / "posterior.safetensors"))  # type: ignore[arg-type]
    x = steps.load_data(settings, None).test_x
    drawn = figures_of_decoder(artifact, network, Bernoulli(), x)
    assert list(drawn) == ["samples", "reconstructions", "interpolations"]
    originals, rebuilt = (np.asarray(axes.images[0].get_array()) for axes in drawn["reconstructions"].axes)
    np.testing.assert_array_equal(originals[:8, :8], x[0, 0])
    with torch.no_grad():
        decoded = EncoderDecoder(network.encoder, artifact.to_torch(), network.codes)(x[:50]).sigmoid()
    np.testing.assert_allclose(rebuilt[9:17, 9:17], decoded[6].reshape(8, 8), atol=1e-5)
    between = np.asarray(drawn["interpolations"].axes[0].images[0].get_array())
    np.testing.assert_allclose(between[:8, :8], decoded[0].reshape(8, 8), atol=1e-5)
    np.testing.assert_allclose(between[:8, -8:], decoded[1].reshape(8, 8), atol=1e-5)
