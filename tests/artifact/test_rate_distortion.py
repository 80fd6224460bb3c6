"""Refinement against its objective: worked through by hand, and on networks whose posterior is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.artifact.writing.rate_distortion import refine
from pyro_compress.errors import DecisionError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation, Linear
from pyro_compress.network.quantizers import Codebook, PerChannel, Uniform, rounded

STEP = 2.0**-5
LAYERS = (Linear("fc1", 150, 16, True), Activation("tanh"), Linear("fc2", 16, 12, True))
ARCHITECTURE = Architecture((150,), LAYERS)


def site(value: np.ndarray, variance: float | np.ndarray, step: float = STEP) -> SiteDecision:
    return SiteDecision(
        value.astype(np.float32),
        np.broadcast_to(np.asarray(variance, np.float32), value.shape),
        np.full(value.shape, 8, np.uint8),
        Uniform(step),
    )


def decision(variance: float = 1e-3) -> Decision:
    random = np.random.default_rng(0)
    sites = {}
    for layer in ("fc1", "fc2"):
        shape = (16, 150) if layer == "fc1" else (12, 16)
        value = random.laplace(scale=0.1, size=shape) * (random.random(shape) < 0.5)
        sites[f"{layer}.weight"] = site(value, variance)
        sites[f"{layer}.bias"] = site(random.normal(size=shape[0]), 0.0)
    return Decision(sites)


def size(of: Decision) -> int:
    return len(encode(remove_dead(ARCHITECTURE, of)))


def distortion_nats(of: Decision, aim: Decision) -> float:
    weights = [(of.sites[name], aim.sites[name]) for name in ("fc1.weight", "fc2.weight")]
    return sum(float(((f.stored() - a.value) ** 2 / (2 * a.variance)).sum()) for f, a in weights)


def test_free_bits_leave_the_nearest_integers() -> None:
    aim = decision()
    found = refine(ARCHITECTURE, aim, 0.0)
    for name, expected in aim.sites.items():
        np.testing.assert_array_equal(found.sites[name].stored(), expected.stored())


def test_dearer_bits_give_smaller_files_and_more_distortion() -> None:
    aim = decision()
    found = [refine(ARCHITECTURE, aim, price) for price in (0.0, 0.1, 0.3, 1.0, 3.0)]
    sizes, distortions = [size(each) for each in found], [distortion_nats(each, aim) for each in found]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.6 * sizes[0]
    assert distortions == sorted(distortions)


@pytest.mark.parametrize("price", [0.1, 0.5])
def test_refinement_beats_rounding_to_a_coarser_grid_on_its_own_objective(price: float) -> None:
    """λ bits + distortion must be lower than that of nearest rounding on the grid, and on the two coarser ones."""
    aim = decision()

    def cost(of: Decision) -> float:
        return price * 8 * size(of) + distortion_nats(of, aim)

    coarser = [
        aim.with_sites({n: site(s.value, s.variance, STEP * 2**k) for n, s in aim.sites.items() if "weight" in n})
        for k in range(3)
    ]
    assert cost(refine(ARCHITECTURE, aim, price)) < min(map(cost, coarser))


def test_a_weight_moves_only_where_the_posterior_is_wide() -> None:
    aim = decision()
    variance = np.full((16, 150), 1e-12, np.float32)
    variance[:, :70] = 1.0
    weight = site(aim.sites["fc1.weight"].value, variance)
    found = refine(ARCHITECTURE, aim.with_sites({"fc1.weight": weight}), 0.05).sites["fc1.weight"].stored()
    assert not found[:, :70].any()
    np.testing.assert_array_equal(found[:, 70:], weight.stored()[:, 70:])


def test_point_estimates_and_float32_tensors_stay() -> None:
    aim = decision()
    held = aim.sites["fc2.weight"]
    floats = SiteDecision(held.value, held.variance, np.full(held.value.shape, 32, np.uint8))
    points = site(aim.sites["fc1.weight"].value, 0.0)
    aim = aim.with_sites({"fc2.weight": floats, "fc1.weight": points})
    found = refine(ARCHITECTURE, aim, 10.0)
    for name, expected in aim.sites.items():
        np.testing.assert_array_equal(found.sites[name].stored(), expected.stored())


def test_pruned_weights_stay_pruned_and_zeros_become_so() -> None:
    aim = decision()
    before, found = aim.sites["fc1.weight"], refine(ARCHITECTURE, aim, 0.3).sites["fc1.weight"]
    assert not found.stored()[before.stored() == 0].any()
    dropped = (before.stored() != 0) & (found.stored() == 0)
    assert dropped.any() and not found.bits[dropped].any()
    np.testing.assert_array_equal(found.stored(), found.value * (before.stored() != 0))


def test_the_same_decision_gives_the_same_file() -> None:
    first, second = (encode(remove_dead(ARCHITECTURE, refine(ARCHITECTURE, decision(), 0.2))) for _ in range(2))
    assert first == second


def test_a_negative_price() -> None:
    with pytest.raises(DecisionError, match=r"price of a bit must not be negative, found -1"):
        refine(ARCHITECTURE, decision(), -1)


def test_a_second_refinement_is_measured_from_where_the_first_one_began() -> None:
    """Forgetting it would make the way from the first one's integers free of charge."""
    aim = decision()
    first = refine(ARCHITECTURE, aim, 0.1)
    twice, once = refine(ARCHITECTURE, first, 0.3), refine(ARCHITECTURE, aim, 0.3)
    forgetful = first.with_sites({name: replace(held, aim=None) for name, held in first.sites.items()})
    apart = {
        "twice": objective(twice, aim) - objective(once, aim),
        "forgetful": objective(refine(ARCHITECTURE, forgetful, 0.3), aim) - objective(once, aim),
    }
    assert abs(apart["twice"]) < 0.1 * apart["forgetful"]
    for name in ("fc1.weight", "fc2.weight"):
        np.testing.assert_array_equal(twice.sites[name].aim, aim.sites[name].value)
        assert twice.sites[name].moved_to(aim.sites[name].value).aim is None


def objective(of: Decision, aim: Decision, price: float = 0.3) -> float:
    return price * 8 * size(of) + distortion_nats(of, aim)


def test_what_was_aimed_at_is_kept_in_the_file_of_a_decision(tmp_path: Path) -> None:
    found = refine(ARCHITECTURE, decision(), 0.1)
    found.save(tmp_path / "decision.safetensors")
    loaded = Decision.load(tmp_path / "decision.safetensors")
    np.testing.assert_array_equal(loaded.sites["fc1.weight"].aim, decision().sites["fc1.weight"].value)
    assert loaded.sites["fc1.bias"].aim is None


@pytest.mark.parametrize("kind", ["step", "steps"])
def test_other_grids_are_refined_too_and_codebooks_stay(kind: str) -> None:
    aim = decision()
    steps = PerChannel(tuple((0.02 + 0.001 * np.arange(16)).tolist()))
    quantizer: Uniform | PerChannel = Uniform(0.03) if kind == "step" else steps
    on = {
        "fc1.weight": aim.sites["fc1.weight"].on(quantizer),
        "fc2.weight": aim.sites["fc2.weight"].on(Codebook((-0.2, -0.05, 0.06, 0.25))),
    }
    aim = aim.with_sites(on)
    free, dear = refine(ARCHITECTURE, aim, 0.0), refine(ARCHITECTURE, aim, 0.5)
    for name, expected in aim.sites.items():
        np.testing.assert_array_equal(free.sites[name].stored(), expected.stored())
    assert dear.sites["fc2.weight"] is aim.sites["fc2.weight"] and size(dear) < 0.9 * size(aim)
    found = dear.sites["fc1.weight"]
    assert isinstance(found.quantizer, Uniform | PerChannel)
    octaves = np.log2(found.quantizer.spacing(2) / quantizer.spacing(2))
    assert len(set(octaves.ravel())) == 1 and octaves.flat[0] in (0, 1, 2)
    np.testing.assert_array_equal(found.stored(), rounded(found.quantizer, found.value) * found.kept())
    cost = [0.5 * 8 * size(each) + distortion_nats(each, aim) for each in (dear, aim)]
    assert cost[0] < cost[1]


def test_a_curvature_takes_the_place_of_the_variance() -> None:
    aim = decision()
    flat = Decision({name: replace(each, variance=np.zeros_like(each.variance)) for name, each in aim.sites.items()})
    curvature = {name: np.full(each.value.shape, 1e3, np.float32) for name, each in aim.sites.items()}
    expected, found = refine(ARCHITECTURE, aim, 1.0), refine(ARCHITECTURE, flat, 1.0, curvature)
    for name, one in expected.sites.items():
        np.testing.assert_array_equal(found.sites[name].stored(), one.stored())
    assert size(found) < size(aim)
    # what the data do not determine goes to zero, what they do stays
    curvature["fc1.weight"][:8] = 0
    half = refine(ARCHITECTURE, flat, 0.1, curvature).sites["fc1.weight"].stored()
    assert not half[:8].any() and half[8:].any()
