"""Units that go for speed: hand-made evidence, a slow greedy search written again, and products counted by torch."""

import math
import re
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.analysis.decisions.units import prune_units
from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.errors import DecisionError
from pyro_compress.models.networks import lenet_5
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import weight_shape
from pyro_compress.network.liveness import products_per_link
from pyro_compress.network.stored import architecture_left
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior
from tests.analysis.decisions.masked_networks import masked, run
from tests.artifact.small_networks import SMALL


def dense() -> nn.Module:
    return nn.Sequential(OrderedDict(a=nn.Linear(2, 3), r=nn.ReLU(), b=nn.Linear(3, 2)))


def convolutional() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            c1=nn.Conv2d(1, 5, 3, bias=False), n1=nn.BatchNorm2d(5), r1=nn.ReLU(), c2=nn.Conv2d(5, 4, 3, padding=1),
            n2=nn.BatchNorm2d(4), s=nn.Sigmoid(), p=nn.MaxPool2d(2), f=nn.Flatten(), d1=nn.Linear(36, 7), r2=nn.ReLU(),
            d2=nn.Linear(7, 3),
        )
    )  # fmt: skip


def posterior(network: nn.Module, seed: int = 0) -> Posterior:
    """Random means and variances, and batch norm that shifts."""
    random = np.random.default_rng(seed)
    sites = {}
    for name, parameter in network.named_parameters():
        mean = random.normal(size=parameter.shape).astype(np.float32)
        variance = random.uniform(0.01, 4, parameter.shape).astype(np.float32)
        is_weight = parameter.ndim > 1
        sites[name] = ParameterPosterior(
            mean, variance if is_weight else 0 * variance, "Normal" if is_weight else "point"
        )
    buffers = {
        name: random.uniform(0.5, 2, buffer.shape).astype(np.float32)
        for name, buffer in network.named_buffers()
        if "running" in name
    }
    return Posterior(sites, {}, buffers)


def with_nats(network: nn.Module, **nats: list[list[float]]) -> Posterior:
    """A posterior whose weights have these ½ (μ/σ)²."""
    known = posterior(network).parameters
    for layer, wanted in nats.items():
        mean = np.sqrt(2 * np.array(wanted)).astype(np.float32)
        known = {**known, f"{layer}.weight": ParameterPosterior(mean, np.ones_like(mean), "Normal")}
    return Posterior(known)


def test_the_unit_goes_whose_reads_or_readers_cost_least() -> None:
    # read: 5, 9, 3 nats; by its readers: 8, 2, 7: each costs the lesser, 5, 2, 3
    found = with_nats(dense(), a=[[1, 4], [4, 5], [1, 2]], b=[[4, 1, 4], [4, 1, 3]])
    one_less = prune_units(found, trace(dense(), (2,)), multiply_adds=0.7)
    assert one_less.sites["a.weight"].kept().tolist() == [[True, True], [False, False], [True, True]]
    assert one_less.sites["a.bias"].kept().tolist() == [True, False, True]
    assert one_less.sites["b.weight"].kept().tolist() == [[True, False, True], [True, False, True]]
    assert one_less.sites["b.bias"].kept().all()
    two_less = prune_units(found, trace(dense(), (2,)), multiply_adds=0.5)
    assert two_less.sites["a.bias"].kept().tolist() == [True, False, False]
    assert one_less.made_by == {"multiply_adds": 0.7}


def test_a_unit_that_has_lost_its_certain_weights_costs_what_is_left() -> None:
    network = nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.Linear(3, 3), c=nn.Linear(3, 2)))
    certain = math.inf  # the first unit of a makes nothing else that counts, and goes first
    found = with_nats(
        network,
        a=[[0.1, 0.1], [50, 50], [50, 50]],
        b=[[certain, 100, 100], [1, 1, 1], [1, 1, 2]],
        c=[[100, 1, 1], [100, 1, 1]],
    )
    left = prune_units(found, trace(network, (2,)), multiply_adds=12 / 21).sites
    assert left["a.bias"].kept().tolist() == [False, True, True]
    assert left["b.bias"].kept().tolist() == [True, False, True]


def test_what_is_saved_counts_as_well_as_what_is_lost() -> None:
    # filters cost 6 nats and save 4 × 9 products, units of the dense layer cost 2 and save 6 of the first 28 or so
    network = nn.Sequential(
        OrderedDict(
            c=nn.Conv2d(1, 2, 2), r=nn.ReLU(), f=nn.Flatten(), a=nn.Linear(2, 2), q=nn.ReLU(), b=nn.Linear(2, 1)
        )
    )
    sites = dict(with_nats(network, a=[[20, 20], [1, 1]], b=[[9, 9]]).parameters)
    mean = np.full((2, 1, 2, 2), np.sqrt(2 * 6 / 4), np.float32)
    mean[1] *= 2
    sites["c.weight"] = ParameterPosterior(mean, np.ones_like(mean), "Normal")
    architecture = trace(network, (1, 2, 2))
    # whole: 2 × 4 + 4 + 2 = 14.  Filter 0: 6 nats for 4 + 2 = 6 products; unit 1: 2 nats for 2 + 1 = 3
    unit = prune_units(Posterior(sites), architecture, multiply_adds=11 / 14)
    assert unit.sites["a.bias"].kept().tolist() == [True, False]
    assert unit.sites["c.weight"].kept().all()
    # now filter 0 costs 6 for 4 + 1 = 5, and unit 0 stays as the last one of its layer
    both = prune_units(Posterior(sites), architecture, multiply_adds=6 / 14)
    assert both.sites["c.weight"].kept()[:, 0, 0, 0].tolist() == [False, True]
    assert both.sites["a.bias"].kept().tolist() == [True, False]


def slow_search(network: nn.Module, found: Posterior, share: float) -> dict[str, np.ndarray]:
    """The same rule with everything counted anew at each step, on masks of the weights, for `convolutional`."""
    names = ["c1", "c2", "d1", "d2"]
    area = dict(zip(names, (9 * 36, 9 * 36, 1, 1), strict=True))
    nats = {
        n: (0.5 * found.parameters[f"{n}.weight"].mean.astype(float) ** 2 / found.parameters[f"{n}.weight"].variance)
        for n in names
    }
    nats = {n: e.reshape(*e.shape[:2], -1).sum(2) for n, e in nats.items()}
    there = {n: np.ones(e.shape, bool) for n, e in nats.items()}

    def products() -> int:
        return sum(area[n] * int(mask.any(1).sum()) * int(mask.any(0).sum()) for n, mask in there.items())

    whole = products()
    while products() > share * whole:
        options: list[tuple[float, str, int, str, slice]] = []
        for name, after in pairwise(names):
            outputs = len(nats[name])
            block = len(nats[after].T) // outputs
            alive = np.flatnonzero(there[name].any(1))
            for unit in alive.tolist() if len(alive) > 1 else []:
                read = there[after][:, unit * block : (unit + 1) * block]
                lost: float = min(
                    nats[name][unit][there[name][unit]].sum(),
                    nats[after][:, unit * block : (unit + 1) * block][read].sum(),
                )
                options.append((lost, name, unit, after, slice(unit * block, (unit + 1) * block)))
        for unit in np.flatnonzero(there["d1"].any(0)).tolist():
            lost = nats["d1"][:, unit][there["d1"][:, unit]].sum()
            options.append((lost, "", unit, "d1", slice(unit, unit + 1)))

        def price(option: tuple[float, str, int, str, slice]) -> float:
            lost, name, unit, after, columns = option
            before = {n: mask.copy() for n, mask in there.items()}
            start = products()
            if name:
                there[name][unit] = False
            there[after][:, columns] = False
            saved = start - products()
            there.update(before)
            return lost / saved if saved else np.inf

        _, name, unit, after, columns = min(options, key=price)
        if name:
            there[name][unit] = False
        there[after][:, columns] = False
    return there


@pytest.mark.parametrize("share", [0.7, 0.3, 0.1])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_slow_search_finds_the_same(share: float, seed: int) -> None:
    network = convolutional()
    found = posterior(network, seed)
    decision = prune_units(found, trace(network, (1, 8, 8)), multiply_adds=share)
    for name, mask in slow_search(network, found, share).items():
        kept = decision.sites[f"{name}.weight"].kept()
        assert np.array_equal(kept.reshape(*kept.shape[:2], -1).any(2), mask), name


def flops(network: nn.Module, x: torch.Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(x)
    return int(counter.get_total_flops())


def reduced(network: nn.Module, decision: Decision, shape: tuple[int, ...]) -> nn.Module:
    return to_torch(remove_dead(trace(network, shape), decision))


@pytest.mark.parametrize("share", [0.5, 0.08])
def test_torch_counts_no_more_products_than_were_allowed(share: float) -> None:
    network, x = lenet_5(), torch.rand(1, 1, 28, 28)
    decision = prune_units(posterior(network), trace(network, (1, 28, 28)), multiply_adds=share)
    left = flops(reduced(network, decision, (1, 28, 28)), x) / flops(network, x)
    # at most, and not far below: no unit of LeNet-5 is worth more than a twentieth
    assert share - 0.05 < left <= share


@pytest.mark.parametrize("share", [1.0, 0.6, 0.2])
def test_the_smaller_network_computes_what_the_masked_one_does(share: float) -> None:
    network, x = convolutional().eval(), torch.rand(5, 1, 8, 8)
    found = posterior(network)
    architecture = trace(network, (1, 8, 8))
    decision = prune_units(found, architecture, multiply_adds=share)
    small = remove_dead(architecture, decision)
    torch.testing.assert_close(run(small, x), masked(network, decision, x), rtol=1e-5, atol=1e-5)
    if share == 1:
        assert all(site.kept().all() for site in decision.sites.values())
        return
    # batch norm and sigmoid keep no channel alive
    layers = architecture_left(small)
    kept = [int(decision.sites[f"{name}.weight"].kept().any(axis=(1, 2, 3)).sum()) for name in ("c1", "c2")]
    assert layers[:2] == kept
    assert sum(kept) < 9


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_is_a_share(share: float) -> None:
    network = dense()
    with pytest.raises(DecisionError, match=rf"above 0 and at most 1; found {re.escape(str(share))}"):
        prune_units(posterior(network), trace(network, (2,)), multiply_adds=share)


def test_what_cannot_be_reached_is_said() -> None:
    network = dense()
    with pytest.raises(DecisionError, match=r"costs 0\.25 of its multiply-adds: multiply_adds=0\.2 is out of reach"):
        prune_units(posterior(network), trace(network, (2,)), multiply_adds=0.2)


def test_point_estimates_have_no_evidence() -> None:
    network = dense()
    found = dict(posterior(network).parameters)
    mean = found["b.weight"].mean
    found["b.weight"] = ParameterPosterior(mean, 0 * mean, "point")
    with pytest.raises(DecisionError, match=r"b\.weight is a point estimate: give that layer a prior"):
        prune_units(Posterior(found), trace(network, (2,)), multiply_adds=0.5)


def test_what_a_grouped_convolution_touches_stays() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(DecisionError, match="a forward pass costs 1 of its multiply-adds"):
        prune_units(posterior(network), trace(network, (4, 1, 1)), multiply_adds=0.5)


class Residual(nn.Module):
    """`first` and `inner` are added, so that their units are one; `out` reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.out = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.out(torch.relu(x + self.inner(torch.relu(x))))


def test_units_that_are_added_go_together() -> None:
    """Unit 0 costs min(2·1 + 1 made, 1 + 2·9 read), unit 1 min(2·4 + 1, 1 + 2·½), unit 2 min(2·4 + 1, 1 + 2·9)."""
    inner = [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    found = with_nats(Residual(), first=[[1, 1], [4, 4], [4, 4]], inner=inner, out=[[9, 0.5, 9], [9, 0.5, 9]])
    architecture = trace(Residual(), (2,))
    # 6 + 9 + 6 products; without a unit 4 + 4 + 4
    one_less = prune_units(found, architecture, multiply_adds=12 / 21)
    stays = np.array([True, False, True])
    for name in ("first", "inner"):
        np.testing.assert_array_equal(one_less.sites[f"{name}.bias"].kept(), stays)
    np.testing.assert_array_equal(one_less.sites["inner.weight"].kept(), stays[:, None] & stays)
    np.testing.assert_array_equal(one_less.sites["out.weight"].kept(), np.tile(stays, (2, 1)))
    # its evidence is out of the sums now: unit 0 is read for 0 + 18 and made for 2, unit 2 made for 8 + 1
    two_less = prune_units(found, architecture, multiply_adds=5 / 21)
    assert two_less.sites["first.bias"].kept().tolist() == [False, False, True]


def products(architecture: Architecture) -> int:
    """Of dense layers and convolutions, in a forward pass."""
    found = zip(architecture.weighted(), products_per_link(architecture), strict=True)
    return sum(per * math.prod(weight_shape(layer)[:2]) for layer, per in found)


@pytest.mark.parametrize("name", ["mobile", "unet", "dense", "inception", "series", "encoder", "gpt", "reader"])
def test_networks_with_branches_get_smaller_and_compute_what_masked_ones_do(name: str) -> None:
    make, shape = SMALL[name]
    torch.manual_seed(0)
    network = make().eval()
    architecture = trace(network, shape)
    found = posterior(network)
    least = float(re.findall(r"costs (\S+) of", refusal(found, architecture))[0])
    share = (1 + least) / 2
    decision = prune_units(found, architecture, multiply_adds=share)
    small = remove_dead(architecture, decision)
    assert products(small.architecture) <= share * products(architecture)
    x = torch.randn(4, *shape)
    if architecture.tokens is not None:
        x = torch.randint(architecture.tokens, (4, *shape))
    torch.testing.assert_close(run(small, x), masked(network, decision, x), rtol=1e-4, atol=1e-5)


def refusal(found: Posterior, architecture: Architecture) -> str:
    with pytest.raises(DecisionError) as failed:
        prune_units(found, architecture, multiply_adds=1e-9)
    return str(failed.value)


def test_resnet_18_loses_channels_of_whole_stages() -> None:
    network = resnet18(num_classes=10).eval()
    architecture = trace(network, (3, 32, 32))
    decision = prune_units(posterior(network), architecture, multiply_adds=0.6)
    small = remove_dead(architecture, decision)
    assert products(small.architecture) <= 0.6 * products(architecture)
    # what is added to a stage has its channels
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        kept = [decision.sites[f"{stage}.{block}.bn2.weight"].kept() for block in (0, 1)]
        np.testing.assert_array_equal(kept[0], kept[1])
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(run(small, x), masked(network, decision, x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_batch_norm_behind_a_flattening_loses_all_entries_of_a_channel(pooled: bool) -> None:
    pool = [nn.MaxPool2d(2)] if pooled else []
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), *pool, nn.Flatten(), norm := nn.BatchNorm1d(16 if pooled else 64), nn.ReLU(),
        nn.Linear(norm.num_features, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip
    architecture = trace(network, (1, 6, 6))
    decision = prune_units(posterior(network), architecture, multiply_adds=0.4)
    (name,) = (n for n, module in network.named_modules() if module is norm)
    channels = decision.sites["0.bias"].kept()
    assert 0 < channels.sum() < 4
    each = norm.num_features // 4
    for kind in ("weight", "bias"):
        assert (decision.sites[f"{name}.{kind}"].kept() == np.repeat(channels, each)).all()
    left = remove_dead(architecture, decision)
    assert architecture_left(left)[0] == channels.sum()
    x = torch.randn(20, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(run(left, x), masked(network, decision, x), rtol=1e-5, atol=1e-6)
