"""The section that keeps the posterior: it comes back, it draws what it says, and only what a writer writes is read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.kept_deviations import stored_network
from pyro_compress.analysis.decisions.pruning import prune
from pyro_compress.analysis.decisions.structure import remove_dead_indexed, remove_dead_spread
from pyro_compress.artifact.format.decode import decode, decode_sections
from pyro_compress.artifact.format.deviations import code_deviations
from pyro_compress.artifact.format.layout import tensor_columns
from pyro_compress.artifact.format.stream import RangeReader, RangeWriter
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.artifact.writing.rate_distortion import refine
from pyro_compress.errors import ArtifactError, DecisionError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import BatchNorm, Linear
from pyro_compress.network.quantizers import power_of_two
from pyro_compress.network.stored import StoredNetwork, StoredTensor, tied_weights
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior
from tests.artifact import networks, specified
from tests.artifact.test_rate_distortion import ARCHITECTURE, decision, site

GOLDEN = Path(__file__).parent / "golden"


def spread(network: StoredNetwork, lowest: int = -9, levels: int = 5) -> StoredNetwork:
    """The network with a fixed pattern of exponents beside the non-zero numbers of its weights, float32 or not."""
    found = {}
    for salt, (name, tensor) in enumerate(network.tensors.items()):
        stored = tensor.dense()
        if name.endswith(".weight") and stored.any():
            exponents = lowest + np.abs(networks.pattern(stored.shape, levels, 100, salt + 50)) - 1
            found[name] = np.where(stored != 0, exponents, 0).astype(np.int8)
    return replace(network, deviations=found)


@pytest.mark.parametrize("name", ["dense", "conv", "tied"])
@pytest.mark.parametrize(("lowest", "levels"), [(-9, 5), (-64, 1), (40, 24)])
def test_deviations_come_back_and_encode_to_the_same_bytes(name: str, lowest: int, levels: int) -> None:
    network = spread(getattr(networks, name)(), lowest, levels)
    data = encode(network)
    found = decode(data)
    networks.assert_same(found, network)
    assert sorted(found.deviations) == sorted(network.deviations)
    for key, exponents in network.deviations.items():
        np.testing.assert_array_equal(found.deviations[key], exponents, strict=True)
    assert encode(found) == data
    assert specified.decode(data).deviations == {
        key: [
            int(e) if w else None for e, w in zip(exponents.ravel(), network.tensors[key].dense().ravel(), strict=True)
        ]
        for key, exponents in network.deviations.items()
    }


def test_deviations_of_one_weight_of_several_layers_are_kept_and_drawn_once() -> None:
    network = networks.tied()
    found = {name: np.where(network.tensors[name].dense() != 0, np.int8(-3), np.int8(0)) for name in ("fc1.weight",)}
    same = replace(network, deviations=found | {"fc2.weight": found["fc1.weight"]})
    other = replace(network, deviations=found)
    assert tied_weights(same) == {"head.weight": "wte.weight", "fc2.weight": "fc1.weight"}
    assert tied_weights(other) == {"head.weight": "wte.weight"}
    decoded = decode(encode(same))
    np.testing.assert_array_equal(decoded.deviations["fc2.weight"], found["fc1.weight"])
    assert len(encode(same)) < len(encode(other))
    drawn = [module for module in Artifact.of(same).sample(torch.Generator()) if isinstance(module, torch.nn.Linear)]
    torch.testing.assert_close(drawn[0].weight, drawn[1].weight, rtol=0, atol=0)
    assert not torch.equal(drawn[0].weight, torch.from_numpy(network.tensors["fc1.weight"].dense()))


def test_the_golden_file_holds_the_same_for_ever() -> None:
    data = (GOLDEN / "deviations.pyrc").read_bytes()
    network = spread(networks.dense())
    assert encode(network) == data
    found = decode(data).deviations
    assert sorted(found) == ["fc1.weight", "fc2.weight"]
    assert all(np.array_equal(found[name], network.deviations[name]) for name in found)


def test_deviations_of_columns_that_differ_cost_little() -> None:
    """Each input has its own scale, as under a group prior: what is coded must be near the entropy given the column."""
    random = np.random.default_rng(0)
    layer = Linear("fc1", 40, 200, False)
    scale = random.integers(-8, -4, 40)
    exponents = np.where(random.random((200, 40)) < 0.9, scale, -5).astype(np.int8)
    network = StoredNetwork(
        Architecture((40,), (layer,)),
        {"fc1.weight": StoredTensor(np.ones((200, 40), np.int32), power_of_two(-4))},
        {"fc1.weight": exponents},
    )
    section = decode_sections(encode(network))[1][-1]
    assert section.name == "deviations" and section.nonzero == 8000 and section.distinct == 4
    assert section.file_bytes < 0.65 * section.entropy_bytes


def test_draws_have_the_stored_mean_and_deviation() -> None:
    """Mean and standard deviation of n draws: their errors are σ/√n and σ/√(2n); 4.5 of them at any of 250 weights."""
    artifact = Artifact.of(spread(networks.dense()))
    generator, count = torch.Generator().manual_seed(1), 400
    drawn = [artifact.sample(generator) for _ in range(count)]
    stored = artifact.to_torch()
    position = next(i for i, module in enumerate(stored) if isinstance(module, torch.nn.Linear))
    values = np.stack([module.get_parameter(f"{position}.weight").detach().numpy() for module in drawn]).astype(
        np.float64
    )
    mean = artifact.network.tensors["fc1.weight"].dense()
    sigma = np.where(mean != 0, 2.0 ** artifact.network.deviations["fc1.weight"].astype(float), 0)
    assert (np.abs(values.mean(0) - mean) <= 4.5 * sigma / np.sqrt(count) + 1e-7).all()
    assert (np.abs(values.std(0) - sigma) <= 4.5 * sigma / np.sqrt(2 * count) + 1e-7).all()
    bias = [module.get_parameter(f"{position}.bias").detach().numpy() for module in drawn]
    np.testing.assert_array_equal(bias[0], bias[1])
    assert not drawn[0].training


def test_a_file_without_deviations_cannot_be_sampled() -> None:
    with pytest.raises(ArtifactError, match=r"keeps no standard deviations .* --keep-deviations"):
        Artifact.of(networks.dense()).sample(torch.Generator())


def test_the_decision_s_variance_is_what_is_kept() -> None:
    aim = decision()
    variance = np.full((16, 150), 2.0**-12, np.float32)
    variance[:, :70] = 2.0**-16
    aim = aim.with_sites({"fc1.weight": site(aim.sites["fc1.weight"].value, variance)})
    found = stored_network(ARCHITECTURE, aim, keep_deviations=True)
    left = remove_dead_indexed(ARCHITECTURE, aim)[1]["fc1.weight"][1].ravel()  # the inputs that are left
    kept = found.tensors["fc1.weight"].dense() != 0
    expected = np.where(left < 70, -8, -6) * kept
    np.testing.assert_array_equal(found.deviations["fc1.weight"], expected)
    assert set(found.deviations) == {"fc1.weight", "fc2.weight"}  # biases are point estimates


def test_a_decision_without_variance_has_none_to_keep() -> None:
    aim = decision()
    points = {name: site(s.value, 0.0) for name, s in aim.sites.items()}
    with pytest.raises(DecisionError, match=r"no weight has a variance"):
        stored_network(ARCHITECTURE, Decision(points), keep_deviations=True)


def test_deviations_too_far_apart() -> None:
    network = spread(networks.dense(), -20, 33)
    with pytest.raises(ArtifactError, match=r"go from 2\*\*-20 to 2\*\*12, 32 octaves fit"):
        encode(network)


def test_deviations_beside_zeros() -> None:
    network = networks.dense()
    with pytest.raises(ValueError, match=r"stand beside numbers that are zero"):
        replace(network, deviations={"fc1.weight": np.ones((20, 51), np.int8)})


def section(bits: list[int]) -> bytes:
    """A stream of bits of probability one half."""
    coder = RangeWriter()
    coder.bits(np.full(len(bits), 1 << 15), np.array(bits, bool))
    return coder.finish()


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ([0], r"declares deviations and holds none"),
        ([1, *[1] * 7, 0, 0, 0, 0, 1, *[0] * 40], r"reach 2\*\*64, 2\*\*63 is the limit"),
        ([1, *[0] * 7, 0, 0, 0, 0, 1, *[0] * 40], r"wider than they are"),
    ],
)
def test_what_no_writer_writes(bits: list[int], message: str) -> None:
    network = StoredNetwork(
        Architecture((1,), (Linear("fc1", 1, 3, False),)), {"fc1.weight": StoredTensor(np.ones((3, 1), np.int32))}
    )
    with pytest.raises(ArtifactError, match=message):
        columns = tensor_columns(network.architecture, 0)
        code_deviations(RangeReader(section(bits)), network.tensors, columns, None)


def bayesian_biases() -> Decision:
    aim = decision(2.0**-14)
    biases = {name: site(s.value, 2.0**-10) for name, s in aim.sites.items() if name.endswith(".bias")}
    return aim.with_sites(biases)


def test_biases_that_have_a_variance_keep_it() -> None:
    found = stored_network(ARCHITECTURE, bayesian_biases(), keep_deviations=True)
    assert set(found.deviations) == set(found.tensors)
    for name in ("fc1.bias", "fc2.bias"):
        np.testing.assert_array_equal(found.deviations[name], np.where(found.tensors[name].dense() != 0, -5, 0))
    network = Artifact.of(found)
    drawn = [network.sample(torch.Generator().manual_seed(seed)).state_dict() for seed in (1, 2)]
    assert any(key.endswith("bias") and not torch.equal(value, drawn[1][key]) for key, value in drawn[0].items())


def test_a_number_that_was_moved_has_the_spread_about_where_it_stands() -> None:
    """E[(w − s)²] under N(μ, σ²), by moments: after training on the grid, a target, or from a draw that is stored."""
    aim, away = bayesian_biases(), 6 * 2.0**-5
    before = aim.sites["fc2.weight"]
    moved = before.moved_to(before.stored() + np.float32(away) * (before.stored() != 0))
    again = moved.moved_to(moved.value)  # twice: the mean stays where the posterior has it
    np.testing.assert_array_equal(again.mean, before.value)
    found = stored_network(ARCHITECTURE, aim.with_sites({"fc2.weight": again}), keep_deviations=True)
    kept = found.tensors["fc2.weight"].dense() != 0
    index = remove_dead_indexed(ARCHITECTURE, aim)[1]["fc2.weight"]
    expected = np.sqrt(2.0**-14 + (before.value[index] - found.tensors["fc2.weight"].dense()).astype(float) ** 2)
    np.testing.assert_array_equal(found.deviations["fc2.weight"][kept], np.rint(np.log2(expected[kept])))
    refined = refine(ARCHITECTURE, aim, 3.0)
    spread, changed = refined.sites["fc1.weight"].spread(), refined.sites["fc1.weight"].stored() == 0
    was = changed & (aim.sites["fc1.weight"].stored() != 0)
    assert was.any() and (spread[was] > 2 * 2.0**-14).all()


def test_a_draw_that_is_stored_keeps_the_spread_about_itself(tmp_path: Path) -> None:
    mean, draw = np.zeros((2, 3), np.float32), np.full((2, 3), 0.5, np.float32)
    best = ParameterPosterior(mean, np.full((2, 3), 0.25, np.float32), "Normal", value=draw)
    found = prune(Posterior({"a.weight": best}))
    found.save(tmp_path / "decision.safetensors")
    np.testing.assert_allclose(Decision.load(tmp_path / "decision.safetensors").sites["a.weight"].spread(), 0.5)


def test_what_a_batch_norm_takes_over_brings_its_spread_along() -> None:
    """Scale γ / s and shift β + γ (b − m) / s of independent γ, β and b, against draws of them."""
    layers = (Linear("a", 2, 3, True), BatchNorm("n", 3, 0.0, True))
    random = np.random.default_rng(0)
    mean = {n: random.normal(size=3) for n in ("a.bias", "n.weight", "n.bias", "n.running_mean")}
    variance = {"a.bias": 2.0**-6, "n.weight": 2.0**-8, "n.bias": 2.0**-12}
    sites = {n: site(mean[n], variance[n], 2.0**-12) for n in variance}
    sites = {n: replace(s, bits=np.full(3, 16, np.uint8)) for n, s in sites.items()}
    sites["a.weight"] = site(random.normal(size=(3, 2)), 2.0**-10)
    buffers = {"n.running_mean": mean["n.running_mean"].astype(np.float32), "n.running_var": np.full(3, 4, np.float32)}
    spread = remove_dead_spread(Architecture((2,), layers), Decision(sites, buffers))[1]
    drawn = {n: random.normal(mean[n], np.sqrt(variance[n]), (200_000, 3)) for n in variance}
    scale = drawn["n.weight"] / 2
    shift = drawn["n.bias"] + scale * (drawn["a.bias"] - mean["n.running_mean"])
    np.testing.assert_allclose(spread["n.scale"], scale.var(0), rtol=0.02)
    np.testing.assert_allclose(spread["n.shift"], shift.var(0), rtol=0.03)


def test_where_all_that_had_a_variance_is_gone_there_is_nothing_to_keep() -> None:
    aim = decision(1e6)  # so wide that any price drops all weights; biases are point estimates
    found = stored_network(ARCHITECTURE, refine(ARCHITECTURE, aim, 64.0), keep_deviations=True)
    assert not found.deviations and found.tensors["fc2.bias"].dense().any()
