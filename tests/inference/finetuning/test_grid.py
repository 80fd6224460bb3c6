"""Fine-tuning on the grid: what it keeps, and what the rate weight does."""

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.errors import DataError, InferenceError
from pyro_compress.inference.finetuning.code_prices import CodePrices
from pyro_compress.inference.finetuning.grid import GridSite, fine_tune
from pyro_compress.inference.finetuning.learned_quantizers import LearnedQuantizer, LearnedSteps
from pyro_compress.inference.finetuning.rounding import Rounding
from pyro_compress.models.likelihoods import Categorical, Gaussian
from pyro_compress.network.quantizers import Codebook, PerChannel, Quantizer, Uniform, rounded

STEP = 0.125


def problem() -> tuple[nn.Module, dict[str, GridSite], DataSet]:
    torch.manual_seed(0)
    x = torch.randn(120, 6)
    y = (x[:, :3] + 0.3 * torch.randn(120, 3)).argmax(1)
    network = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.1), nn.ReLU(), nn.Linear(5, 3))
    sites = {
        "0.weight": GridSite(0.5 * torch.randn(5, 6), torch.rand(5, 6) < 0.7, Uniform(STEP)),
        "0.bias": GridSite(torch.zeros(5), torch.ones(5, dtype=torch.bool), None),
        "3.weight": GridSite(0.5 * torch.randn(3, 5), torch.rand(3, 5) < 0.8, Uniform(STEP / 2)),
        "3.bias": GridSite(torch.zeros(3), torch.ones(3, dtype=torch.bool), None),
    }
    return network, sites, as_data((x, y))


def tuned(rate_weight: float, seed: int = 0, epochs: int = 20) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    network, sites, data = problem()
    values = fine_tune(
        network,
        sites,
        data,
        Categorical(),
        epochs=epochs,
        rate_weight=rate_weight,
        batch_size=30,
        learning_rate=0.02,
        seed=seed,
    )
    return network, values


def log_likelihood(network: nn.Module, data: DataSet) -> float:
    network.eval()
    with torch.no_grad():
        return float(Categorical().distribution(network(data.train_x)).log_prob(data.train_y).sum())


def test_pruned_weights_stay_zero_and_the_network_holds_grid_values() -> None:
    network, values = tuned(rate_weight=1.0)
    _, sites, _ = problem()
    for name, parameter in network.named_parameters():
        site, value = sites[name], values[name]
        assert not value[~site.kept].any() and not parameter[~site.kept].any()
        assert torch.equal(parameter, site.quantised(value))
        if isinstance(site.quantizer, Uniform):
            steps = parameter.detach() / site.quantizer.step
            assert torch.equal(steps, steps.round()) and bool(steps.any())
            assert not torch.equal(value, site.quantised(value)), "hidden values are not rounded"
        assert not torch.equal(value[site.kept], site.value[site.kept])


def test_fit_improves_on_rounding() -> None:
    network, sites, data = problem()
    rounded = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            parameter.copy_(sites[name].quantised(sites[name].value))
    found, _ = tuned(rate_weight=0.0)
    assert log_likelihood(found, data) > log_likelihood(rounded, data) + 10


def test_larger_rate_weight_leaves_fewer_nonzeros() -> None:
    counts = []
    for rate_weight in (0.0, 0.3, 1.0, 5.0):
        network, _ = tuned(rate_weight)
        counts.append(sum(int((network.get_parameter(f"{layer}.weight") != 0).sum()) for layer in "03"))
    assert counts[0] > counts[1] > counts[2] > counts[3], counts


def test_same_seed_same_values_whatever_the_process_drew() -> None:
    torch.manual_seed(123)
    first = tuned(1.0, epochs=3)[1]
    torch.manual_seed(456)
    again = tuned(1.0, epochs=3)[1]
    other = tuned(1.0, seed=1, epochs=3)[1]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    network, sites, data = problem()
    state = torch.get_rng_state()
    fine_tune(network, sites, data, Categorical(), epochs=1, rate_weight=1.0)
    assert torch.equal(state, torch.get_rng_state())


def test_parameters_that_are_not_named_stay() -> None:
    network, sites, data = problem()
    before = network.get_parameter("3.bias").detach().clone()
    del sites["3.bias"]
    finished: list[int] = []
    values = fine_tune(network, sites, data, Categorical(), epochs=2, rate_weight=1.0, progress=finished.append)
    assert torch.equal(network.get_parameter("3.bias"), before)
    assert set(values) == set(sites) and finished == [1, 2]


def test_non_finite_loss_is_refused() -> None:
    network, sites, data = problem()
    sites["0.bias"] = GridSite(torch.full((5,), float("inf")), torch.ones(5, dtype=torch.bool), None)
    with pytest.raises(InferenceError, match=r"fine-tuning on the grid, epoch 0: the loss is nan"):
        fine_tune(network, sites, data, Categorical(), epochs=1, rate_weight=1.0)


def test_targets_of_another_shape_are_refused() -> None:
    network, sites, data = problem()
    flat = as_data((data.train_x, torch.randn(120)))
    with pytest.raises(
        DataError, match=r"outputs of shape \(120, 3\) go with targets of shape \(120, 3\), found \(120,\)"
    ):
        fine_tune(network, sites, flat, Gaussian(noise=1.0), epochs=1, rate_weight=0.0)


def test_a_teacher_replaces_the_targets() -> None:
    network, sites, data = problem()
    teacher = torch.full((120, 3), 0.15)
    teacher[:, 1] = 0.7  # whatever the input, and whatever the label
    # only the biases can move, so the optimum is known: the network without inputs says ln of the teacher
    still = {name: GridSite(site.value * 0, site.kept & False, site.quantizer) for name, site in sites.items()}
    still["3.bias"] = sites["3.bias"]
    found = fine_tune(
        network, still, data, Categorical(), epochs=60, rate_weight=0.0, batch_size=30, learning_rate=0.1,
        teacher=teacher,
    )  # fmt: skip
    torch.testing.assert_close(found["3.bias"].softmax(0), teacher[0], atol=0.02, rtol=0.0)


def test_noise_is_added_to_what_is_kept_and_not_to_what_is_stored() -> None:
    site = GridSite(torch.ones(2000), torch.arange(2000) % 2 == 0, Uniform(STEP), torch.full((2000,), 0.3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        noisy = site.noisy(site.value)
    assert (noisy[1::2] == 0).all()
    assert float(noisy[::2].mean()) == pytest.approx(1.0, abs=4 * 0.3 / 1000**0.5)
    assert float(noisy[::2].std()) == pytest.approx(0.3, rel=0.1)
    network, sites, data = problem()
    noisy_sites = {n: GridSite(s.value, s.kept, s.quantizer, torch.full_like(s.value, 0.05)) for n, s in sites.items()}
    values = fine_tune(network, noisy_sites, data, Categorical(), epochs=2, rate_weight=0.0, batch_size=30)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), sites[name].quantised(values[name]))


@pytest.mark.parametrize(("share", "last"), [(1.0, 12), (0.5, 6), (0.3, 4), (1 / 12, 1), (0.0, 1)])
def test_the_last_iterates_are_averaged(share: float, last: int) -> None:
    network, sites, data = problem()
    sites["3.weight"] = replace(
        sites["3.weight"], learned=LearnedQuantizer.of(Uniform(STEP / 2), sites["3.weight"].value, assigned=False)
    )
    iterates: list[list[np.ndarray]] = []

    def noted(optimizer: torch.optim.Optimizer, *_: object) -> None:
        iterates.append([value.detach().numpy().copy() for value in optimizer.param_groups[0]["params"]])

    hook = register_optimizer_step_post_hook(noted)
    try:
        values = fine_tune(
            network, sites, data, Categorical(), epochs=3, rate_weight=0.3, batch_size=30, averaging=share
        )
    finally:
        hook.remove()
    assert len(iterates) == 12
    *expected, steps = [np.mean([each[i] for each in iterates[-last:]], axis=0) for i in range(len(sites) + 1)]
    for value, mean in zip(values.values(), expected, strict=True):
        np.testing.assert_allclose(value.numpy(), mean, rtol=1e-5, atol=1e-7)
    learned = sites["3.weight"].learned
    assert learned is not None
    np.testing.assert_allclose(learned.numbers.numpy(), steps, rtol=1e-5, atol=1e-7)
    assert share < 0.5 or not np.allclose(expected[0], iterates[-1][0], atol=1e-5)
    # what the network holds is the rounding of the mean
    np.testing.assert_array_equal(
        network.get_parameter("0.weight").detach(), sites["0.weight"].quantised(values["0.weight"])
    )


def test_the_layout_of_filters_changes_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 2, 5, 5)
    data = as_data((x, (x[:, 0, 1, 1] > 0).long()))
    made = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2))
    sites = {
        "0.weight": GridSite(0.5 * torch.randn(3, 2, 3, 3), torch.ones(3, 2, 3, 3, dtype=torch.bool), Uniform(STEP))
    }
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        network = copy.deepcopy(made).to(memory_format=layout)
        values = fine_tune(
            network, sites, data, Categorical(), epochs=3, rate_weight=0.5, batch_size=20, learning_rate=0.02
        )
        found.append(values["0.weight"])
    # a fused optimizer would pair numbers that do not belong together
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert float((found[0] - sites["0.weight"].value).abs().max()) > 0.02


QUANTIZERS: dict[str, Quantizer] = {
    "power of two": Uniform(STEP),
    "step": Uniform(0.3),
    "steps": PerChannel((0.1, 0.25, 0.3, 0.07, 0.5)),
    "ternary": Codebook((-0.6, 0.5)),
    "levels": Codebook((-1.3, -0.8, -0.3, 0.2, 0.45, 1.1)),
}


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_values_stay_on_the_levels_of_every_quantizer(kind: str) -> None:
    """Fine-tuning improves on rounding, and torch finds the numbers, bit for bit, that a file will hold."""
    quantizer = QUANTIZERS[kind]
    network, sites, data = problem()
    sites["0.weight"] = GridSite(sites["0.weight"].value, sites["0.weight"].kept, quantizer)
    before = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in before.named_parameters():
            parameter.copy_(sites[name].quantised(sites[name].value))
    values = fine_tune(
        network, sites, data, Categorical(), epochs=20, rate_weight=0.0, batch_size=30, learning_rate=0.02
    )
    found, kept = network.get_parameter("0.weight").detach().numpy(), sites["0.weight"].kept.numpy()
    np.testing.assert_array_equal(found, rounded(quantizer, values["0.weight"].numpy()) * kept, strict=True)
    assert not np.array_equal(found, before.get_parameter("0.weight").detach().numpy())
    assert len(np.unique(found)) > 2 and not found[~kept].any()
    if isinstance(quantizer, Codebook):
        assert set(np.unique(found).tolist()) <= {0.0, *quantizer.levels}
    assert log_likelihood(network, data) > log_likelihood(before, data) + 5


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_tensors_are_rounded_as_arrays_are(kind: str) -> None:
    torch.manual_seed(0)
    value = torch.randn(5, 400, 2)
    quantizer = QUANTIZERS[kind]
    for each in (value, value.transpose(1, 2).contiguous().transpose(1, 2)):
        found = Rounding.of(quantizer, each)(each)
        np.testing.assert_array_equal(found.numpy(), rounded(quantizer, value.numpy()), strict=True)


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_the_price_of_code_is_the_derivative_of_its_length(kind: str) -> None:
    value = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    site = GridSite(value.detach(), torch.ones(5, 6, dtype=torch.bool), QUANTIZERS[kind])
    spacing = torch.from_numpy(QUANTIZERS[kind].spacing(2))
    torch.log(value.abs() + spacing / 2).sum().backward()
    assert value.grad is not None
    found = torch.ones_like(value.detach())
    site.add_rate(value.detach(), found, 0.25)
    torch.testing.assert_close(found - 1, 0.25 * value.grad)


def code_prices(shape: tuple[int, ...]) -> CodePrices:
    random = torch.Generator().manual_seed(1)
    return CodePrices(2 + torch.rand(shape, generator=random), torch.tensor([0.7, 1.5, 1.5, 2.0]))


def test_the_file_s_prices_rise_from_integer_to_integer_on_straight_lines() -> None:
    prices = code_prices((3, 4))
    totals = torch.stack([prices(torch.full((3, 4), float(size))) for size in range(8)])
    expected = np.cumsum([0.7, 1.5, 1.5, 2.0, 2.0, 2.0])
    np.testing.assert_allclose(totals[0], 0)
    np.testing.assert_allclose(totals[1], prices.one)
    np.testing.assert_allclose(totals[2:] - totals[1], expected[:, None, None] + np.zeros((3, 4)), rtol=1e-5)
    np.testing.assert_allclose(prices(torch.full((3, 4), -2.25)), 0.75 * totals[2] + 0.25 * totals[3], rtol=1e-5)


@pytest.mark.parametrize("kind", [name for name, each in QUANTIZERS.items() if not isinstance(each, Codebook)])
def test_the_price_of_the_file_s_code_is_its_derivative(kind: str) -> None:
    value = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    kept = torch.rand(5, 6, generator=torch.Generator().manual_seed(2)) < 0.8
    prices = code_prices((5, 6))
    quantizer = QUANTIZERS[kind]
    assert not isinstance(quantizer, Codebook)
    learned = LearnedSteps(quantizer, value.detach(), assigned=False)
    numbers = learned.numbers.clone().requires_grad_()
    steps = torch.from_numpy(quantizer.spacing(2)).to(value)
    (prices(value / (steps * numbers.exp().view_as(steps))) * kept).sum().backward()
    assert value.grad is not None and numbers.grad is not None
    for site in (
        GridSite(value.detach(), kept, quantizer),
        GridSite(value.detach(), kept, quantizer, learned=learned),
    ):
        found = torch.ones(5, 6)
        learned.numbers.grad = torch.zeros_like(learned.numbers)
        site.add_rate(value.detach(), found, 0.25, prices)
        torch.testing.assert_close((found - 1) * kept, 0.25 * value.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(learned.numbers.grad, 0.25 * numbers.grad, rtol=1e-4, atol=1e-5)


def test_prices_are_asked_for_before_every_epoch_and_shorten_the_code() -> None:
    """A row that is a thousand times as dear loses nearly all its weights, and the others do not."""
    seen = []

    def prices(theta: Mapping[str, torch.Tensor]) -> dict[str, CodePrices]:
        seen.append({name: value.clone() for name, value in theta.items()})
        one = torch.full((5, 6), 0.01)
        one[0] = 10
        return {"0.weight": CodePrices(one, torch.tensor([0.01]))}

    network, sites, data = problem()
    sites["0.weight"] = replace(sites["0.weight"], kept=torch.ones(5, 6, dtype=torch.bool))
    values = fine_tune(
        network,
        sites,
        data,
        Categorical(),
        epochs=15,
        rate_weight=4.0,
        batch_size=30,
        learning_rate=0.02,
        prices=prices,
    )
    assert len(seen) == 15
    np.testing.assert_array_equal(seen[0]["0.weight"], sites["0.weight"].value)
    assert not np.array_equal(seen[1]["0.weight"], seen[2]["0.weight"])
    left = (sites["0.weight"].quantised(values["0.weight"]) != 0).sum(1)
    assert left[0] <= 1 and left[1:].min() >= 3, left


def test_a_layer_that_a_batch_passes_by_has_no_gradient_of_it() -> None:
    class Dropping(nn.Module):
        """Leaves its middle out of some batches (LayerDrop, Fan et al. 2020)."""

        def __init__(self, least: float) -> None:
            super().__init__()
            self.first, self.middle, self.last, self.least = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3), least

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            if not self.training or float(torch.rand(())) > self.least:
                x = x + self.middle(x).relu()
            found: torch.Tensor = self.last(x)
            return found

    _, _, data = problem()
    moved = {}
    for least in (0.5, 1.0):
        torch.manual_seed(1)
        network = Dropping(least)
        sites = {
            name: GridSite(value.detach().clone(), torch.ones_like(value, dtype=torch.bool), Uniform(STEP))
            for name, value in network.named_parameters()
        }
        found = fine_tune(
            copy.deepcopy(network), sites, data, Categorical(), epochs=2, rate_weight=0, learning_rate=0.02
        )
        moved[least] = {name: not torch.equal(value, sites[name].value) for name, value in found.items()}
    assert all(moved[0.5].values())
    assert moved[1.0] == {name: not name.startswith("middle") for name in moved[1.0]}
