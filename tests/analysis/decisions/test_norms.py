"""Batch norms on grids: as coarse as is allowed, the same in the judged network and in the file, and few bytes."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.kept_deviations import stored_network
from pyro_compress.analysis.decisions.norms import SHARE, WEAKEST, coarsest_exponent, norm_grids, with_norms_on_grids
from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.models.tracing.tracer import trace
from tests.analysis.decisions.masked_networks import decide, masked, randomise, run
from tests.artifact import specified

SHAPE = (3, 8, 8)


class Sum(nn.Module):
    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 20, 3, bias=False), nn.BatchNorm2d(20),
        nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(320), nn.Linear(320, 12), nn.BatchNorm1d(12), nn.ReLU(),
        nn.Linear(12, 5),
    )  # fmt: skip


def residual() -> nn.Module:
    inner = (nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 16, 1))
    return nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16, affine=False), nn.ReLU(),
        Sum(*inner, nn.BatchNorm2d(16)), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def made(build: Callable[[], nn.Module], step: float | None = 0.5) -> tuple[nn.Module, Decision, torch.Tensor]:
    """A network, its own numbers on grids with statistics gathered under them, and the inputs they were gathered on."""
    network, random = build(), np.random.default_rng(0)
    randomise(network, random)
    x = torch.from_numpy(random.normal(size=(64, *SHAPE))).float()
    decision = decide(network, step=step)
    sites = {name: (s if s.value.ndim > 1 else decide(network).sites[name]) for name, s in decision.sites.items()}
    held = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in held.named_parameters():
            parameter.copy_(torch.from_numpy(sites[name].stored()))
        for module in held.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        held.train()(x)
    buffers = {name: b.numpy().copy() for name, b in held.named_buffers() if b.is_floating_point()}
    return held.eval(), Decision(sites, buffers), x


@pytest.mark.parametrize("all_on_grids", [False, True])
@pytest.mark.parametrize("build", [plain, residual])
def test_the_network_that_is_judged_is_the_file(build: Callable[[], nn.Module], all_on_grids: bool) -> None:
    network, decision, x = made(build)
    if all_on_grids:  # γ and β, too
        fine = decide(network, step=2.0**-9).sites
        normed = {name.rpartition(".")[0] for name in decision.buffers}
        decision = decision.with_sites({name: fine[name] for name in fine if name.rpartition(".")[0] in normed})
    architecture = trace(network, SHAPE)
    judged = with_norms_on_grids(architecture, decision)
    stored = stored_network(architecture, decision)
    torch.testing.assert_close(run(stored, x), masked(network, judged, x), rtol=1e-4, atol=1e-4)
    norms = [name for name in stored.tensors if name.endswith((".scale", ".shift"))]
    assert norms and all(stored.tensors[name].integers is not None for name in norms)
    assert Artifact.of(stored_network(architecture, judged)).data == Artifact.of(stored).data


@pytest.mark.parametrize("build", [plain, residual])
def test_what_rounding_a_norm_adds_is_the_share_that_is_allowed(build: Callable[[], nn.Module]) -> None:
    """Over the data each norm's outputs change by about 2 · SHARE · r of their variance at most."""
    network, decision, x = made(build)
    architecture = trace(network, SHAPE)
    grids, seen = norm_grids(architecture, decision), dict[str, tuple[torch.Tensor, torch.Tensor]]()
    for name, module in network.named_modules():
        if name in grids:
            module.register_forward_hook(lambda m, given, out, name=name: seen.update({name: (given[0], out)}))
    with torch.no_grad():
        network(x)
    order = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    position = {name: i for i, (name, _) in enumerate(network.named_modules())}
    for name, grid in grids.items():
        weights = [other for other in order if position[other] < position[name]][-1:] or order[:1]
        integers = decision.sites[f"{weights[0]}.weight"].integers().astype(float)
        allowed = SHARE / (12 * (integers[integers != 0] ** 2).mean())
        given, out = (part.detach().double().transpose(0, 1).flatten(1).numpy() for part in seen[name])
        if position[weights[0]] == position[name] - 1:  # the shift has taken the bias over
            bias = dict(network.named_parameters()).get(f"{weights[0]}.bias", torch.zeros(1))
            given = given - bias.detach().double().numpy()[:, None]
        change = grid.scale[:, None] * given + grid.shift[:, None] - out
        power = out.var(1)
        power = np.maximum(power, WEAKEST**2 * power.mean())
        share = float(((change**2).mean(1) / power).mean())
        assert allowed / 40 < share < 2.5 * allowed, name  # a step is at most a factor of two finer than it has to be


def test_outputs_agree_with_float32_norms_and_take_half_of_their_bytes() -> None:
    network, decision, x = made(plain)
    architecture = trace(network, SHAPE)
    floats, grids = (
        Artifact.of(remove_dead(architecture, decision)),
        Artifact.of(stored_network(architecture, decision)),
    )
    exact, found = (artifact.to_torch()(x).detach() for artifact in (floats, grids))
    assert float((found - exact).norm() / (exact - exact.mean(0)).norm()) < 0.05
    held = [
        sum(s.file_bytes for s in artifact.sections() if s.name.endswith((".scale", ".shift")))
        for artifact in (floats, grids)
    ]
    assert held[0] == 8 * (24 + 20 + 320 + 12) and held[1] < held[0] / 2
    assert len(grids) < len(floats) - 0.5 * held[0]
    again = specified.decode(grids.data).tensors["1.scale"].numbers
    np.testing.assert_array_equal(again, grids.network.tensors["1.scale"].dense())


def test_beside_float32_weights_norms_stay_float32() -> None:
    network, decision, _ = made(plain, step=None)
    architecture = trace(network, SHAPE)
    assert norm_grids(architecture, decision) == {}
    stored = stored_network(architecture, decision)
    assert all(tensor.integers is None for tensor in stored.tensors.values())
    assert with_norms_on_grids(architecture, decision).sites == decision.sites


def test_the_coarsest_exponent() -> None:
    harm = np.array([4.0, 1.0, 0.25, 0.0, np.inf])  # 4^e · 1.75 on average over the three that count
    for allowed in (1e-1, 1e-2, 1e-4):
        found = coarsest_exponent(harm, allowed)
        share = [np.minimum(1, 4.0**e * harm[:3] / 12).mean() for e in (found, found + 1)]
        assert share[0] <= allowed < share[1]
    assert coarsest_exponent(np.zeros(3), 0.1) == 0
    # one channel in a hundred may be lost where that is allowed
    assert coarsest_exponent(np.array([1e9, *[1.0] * 99]), 0.02) == coarsest_exponent(np.ones(99), 0.01)


def test_a_channel_of_scale_zero_and_one_that_is_constant() -> None:
    network, decision, _ = made(plain)
    architecture = trace(network, SHAPE)
    before = norm_grids(architecture, decision)["1"]
    decision.sites["1.weight"].value[3] = 0
    decision.buffers["1.running_var"][5] = 0
    after = norm_grids(architecture, decision)["1"]
    assert after.scale[3] == 0 and abs(after.scale_exponent - before.scale_exponent) <= 1
    assert abs(after.shift_exponent - before.shift_exponent) <= 1
