"""Trained levels and steps: gradients against autograd and hand-made cases, and what training with them gains."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyro_compress.inference.finetuning.grid import GridSite, fine_tune
from pyro_compress.inference.finetuning.learned_quantizers import LearnedQuantizer, LearnedSteps
from pyro_compress.inference.finetuning.rounding import Rounding
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.network.quantizers import Affine, Codebook, PerChannel, Quantizer, Uniform, rounded
from tests.inference.finetuning.test_grid import log_likelihood, problem

KINDS: dict[str, Quantizer] = {
    "step": Uniform(0.3),
    "steps": PerChannel((0.3, 0.125, 0.07)),
    "affine": Affine(Uniform(0.3), 3, (2,)),
    "affine steps": Affine(PerChannel((0.3, 0.125, 0.07)), 4, (0, 15, 6)),
    "levels": Codebook((-0.9, -0.31, 0.2, 0.7)),
    "positive": Codebook((0.2, 0.7)),
}


def values() -> torch.Tensor:
    return torch.randn(3, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("assigned", [False, True])
def test_it_starts_as_the_quantizer_that_it_is_made_of(kind: str, assigned: bool) -> None:
    value = values()
    learned = LearnedQuantizer.of(KINDS[kind], value, assigned=assigned)
    torch.testing.assert_close(learned(value), Rounding.of(KINDS[kind], value)(value), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(rounded(learned.quantizer(), value.numpy()), learned(value), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_with_kept_places_gradients_are_those_of_autograd(kind: str) -> None:
    """Q is then differentiable in its numbers: any loss of it, here a sum with weights, by autograd."""
    value, upstream = values(), torch.randn(3, 40)
    learned = LearnedQuantizer.of(KINDS[kind], value, assigned=True)
    with torch.no_grad():
        learned.numbers.mul_(1.1).add_(0.01)
    learned.numbers.requires_grad_()
    (expected,) = torch.autograd.grad((learned(value) * upstream).sum(), learned.numbers)
    learned.numbers.requires_grad_(False)
    of_theta = learned.backward(value, upstream)
    torch.testing.assert_close(learned.numbers.grad, expected)
    assert not of_theta.any()


def test_a_level_takes_the_sum_of_the_gradients_of_its_weights() -> None:
    """The figure of Han et al. (2016): gradients are grouped by level, and summed."""
    value = torch.tensor([[2.09, -0.98, 1.48, 0.09], [0.05, -0.14, -1.08, 2.12]])
    upstream = torch.tensor([[-0.03, -0.01, 0.03, 0.02], [-0.01, 0.01, -0.02, 0.12]])
    learned = LearnedQuantizer.of(Codebook((-1.0, 1.5, 2.0)), value, assigned=False)
    of_theta = learned.backward(value, upstream)
    unit = (1.0 + 1.5 + 2.0) / 3
    assert learned.numbers.grad is not None
    torch.testing.assert_close(learned.numbers.grad / unit, torch.tensor([-0.01 - 0.02, 0.03, -0.03 + 0.12]))
    assert torch.equal(of_theta, upstream)


def test_the_derivative_by_a_step_is_that_of_learned_step_size_quantisation() -> None:
    """∂Q/∂Δ = round(θ/Δ) − θ/Δ (Esser et al. 2020, equation 3), here by the logarithm of Δ."""
    value = torch.tensor([[0.26, 0.61, -0.9], [0.1, -0.33, 0.25]])
    upstream = torch.tensor([[1.0, 2.0, -1.0], [3.0, 1.0, 0.5]])
    ratio = value / 0.4
    each = upstream * (ratio.round() - ratio) * 0.4
    learned = LearnedQuantizer.of(Uniform(0.4), value, assigned=False)
    learned.backward(value, upstream)
    torch.testing.assert_close(learned.numbers.grad, each.sum().view(1))
    channels = LearnedQuantizer.of(PerChannel((0.4, 0.4)), value, assigned=False)
    channels.backward(value, upstream)
    torch.testing.assert_close(channels.numbers.grad, each.sum(1))


@pytest.mark.parametrize("quantizer", [Uniform(0.4), PerChannel((0.4, 0.2))])
def test_the_code_is_shorter_on_a_coarser_step(quantizer: Quantizer) -> None:
    """Gradients of Σ ln(|θ| / Δ + ½) over what is kept, by θ and ln Δ, against autograd."""
    value = torch.tensor([[0.26, 0.61, -0.9], [0.1, -0.33, 0.25]])
    kept = torch.tensor([[True, True, False], [True, True, True]])
    learned = LearnedQuantizer.of(quantizer, value, assigned=False)
    assert isinstance(learned, LearnedSteps)
    learned.numbers.grad = torch.ones_like(learned.numbers)
    found = learned.rate_backward(value, kept, 0.7) * kept
    start = torch.tensor(quantizer.spacing(2)).float()
    theta, log_step = value.clone().requires_grad_(), start.log().requires_grad_()
    (0.7 * (torch.log(theta.abs() / log_step.exp() + 0.5) * kept).sum()).backward()
    torch.testing.assert_close(found, theta.grad)
    assert log_step.grad is not None
    torch.testing.assert_close(learned.numbers.grad - 1, log_step.grad.flatten())


def test_what_an_affine_quantizer_clips_moves_the_step_alone() -> None:
    """−Q_N and Q_P beyond the range (Esser et al. 2020, equation 3), and no gradient of θ there, learned or not."""
    value, upstream = torch.tensor([[-3.0, -0.5, 0.45, 7.0]]), torch.tensor([[2.0, 3.0, 5.0, 7.0]])
    affine = Affine(Uniform(0.4), 3, (2,))  # −2 … 5
    learned = LearnedQuantizer.of(affine, value, assigned=False)
    of_theta = learned.backward(value, upstream)
    assert of_theta.tolist() == Rounding.of(affine, value).straight(value, upstream).tolist() == [[0.0, 3.0, 5.0, 0.0]]
    expected = 2 * -2 + 3 * (-1 + 0.5 / 0.4) + 5 * (1 - 0.45 / 0.4) + 7 * 5
    torch.testing.assert_close(learned.numbers.grad, torch.tensor([0.4 * expected]))


@pytest.mark.parametrize("crossed", [False, True])
def test_levels_that_move_past_each_other_are_told_apart(crossed: bool) -> None:
    value = values()
    learned = LearnedQuantizer.of(KINDS["levels"], value, assigned=False)
    moved = torch.tensor([-0.9, 0.35, 0.3, 0.7] if crossed else [-0.5, -0.4, 0.3, 0.7])
    with torch.no_grad():
        learned.numbers.mul_(0).add_(moved / 0.5275)  # the mean magnitude
    book = torch.cat([moved, torch.zeros(1)])
    nearest = book[(value[..., None] - book).abs().argmin(-1)]
    torch.testing.assert_close(learned(value), nearest)
    found = learned.quantizer()
    assert isinstance(found, Codebook)
    np.testing.assert_allclose(found.levels, sorted(moved.tolist()), rtol=1e-6)


@pytest.mark.parametrize("quantizer", [Codebook((-0.4, 0.3)), Uniform(0.4), PerChannel((0.4, 0.3, 0.5, 0.4, 0.6))])
def test_training_the_numbers_gains_on_a_coarse_quantizer(quantizer: Quantizer) -> None:
    network, sites, data = problem()
    third = replace(sites["3.weight"], quantizer=Uniform(0.4))
    fits = {}
    for moves in ("nothing", "weights", "quantizer", "both"):
        site = replace(sites["0.weight"], quantizer=quantizer)
        if moves in ("quantizer", "both"):
            learned = LearnedQuantizer.of(quantizer, site.value, assigned=moves == "quantizer")
            site = replace(site, learned=learned)
        chosen = {"0.weight": site, "3.weight": third}
        tuned = copy.deepcopy(network)
        epochs = 0 if moves == "nothing" else 20
        found = fine_tune(
            tuned, chosen, data, Categorical(), epochs=epochs, rate_weight=0.0, batch_size=30, learning_rate=0.02
        )
        fits[moves] = log_likelihood(tuned, data)
        assert not tuned.get_parameter("0.weight")[~site.kept].any()
        if site.learned is not None:
            end = site.learned.quantizer()
            assert end != quantizer
            stored = torch.from_numpy(rounded(end, found["0.weight"].numpy())) * site.kept
            torch.testing.assert_close(tuned.get_parameter("0.weight").detach(), stored, rtol=1e-6, atol=1e-7)
            if moves == "quantizer":
                before = rounded(quantizer, site.value.numpy())[site.kept.numpy()]
                after = stored[site.kept].numpy()
                for level in np.unique(before) if isinstance(quantizer, Codebook) else ():
                    assert len(np.unique(after[before == level])) == 1
                assert not after[before == 0].any()
    assert fits["quantizer"] > fits["nothing"] + 5, fits
    assert fits["both"] > fits["nothing"] + 10, fits


def test_a_site_whose_quantizer_stays_is_trained_as_ever() -> None:
    found = []
    for learned in (False, True):
        network, sites, data = problem()
        if learned:  # of another tensor, which then stays where it is
            site = GridSite(sites["3.weight"].value, torch.zeros(3, 5, dtype=torch.bool), Uniform(0.1))
            sites["3.weight"] = replace(site, learned=LearnedQuantizer.of(Uniform(0.1), site.value, assigned=True))
        else:
            sites["3.weight"] = GridSite(sites["3.weight"].value, torch.zeros(3, 5, dtype=torch.bool), Uniform(0.1))
        values = fine_tune(network, sites, data, Categorical(), epochs=3, rate_weight=0.3, batch_size=30)
        found.append(values["0.weight"])
    assert torch.equal(*found)
