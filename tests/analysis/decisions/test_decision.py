"""Decisions: rounding, composition, and the file that holds one."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.errors import DecisionError
from pyro_compress.network.quantizers import Codebook, PerChannel, Uniform, rounded


def site(values: list[float], bits: list[int] | int = FLOAT_BITS, step: float | None = None) -> SiteDecision:
    value = np.array(values, np.float32)
    grid = None if step is None else Uniform(step)
    return SiteDecision(value, np.zeros_like(value), np.full(value.shape, bits, np.uint8), grid)


def decision(**sites: SiteDecision) -> Decision:
    return Decision({name.replace("_", "."): site for name, site in sites.items()})


def test_integers_round_half_to_even_clip_and_leave_out_what_is_pruned() -> None:
    held = site([0.25, 0.75, -1.25, 9.0, -9.0, 3.0], [4, 4, 4, 4, 3, 0], step=0.5)
    # 0.5 → 0, 1.5 → 2, −2.5 → −2; 18 is clipped to 2³ − 1, −18 to −(2² − 1)
    assert held.integers().tolist() == [0, 2, -2, 7, -3, 0]
    assert held.integers().dtype == np.int32
    assert held.stored().tolist() == [0.0, 1.0, -1.0, 3.5, -1.5, 0.0]
    assert held.stored().dtype == np.float32
    assert held.kept().tolist() == [True, True, True, True, True, False]


def test_without_a_grid_kept_values_are_stored_as_they_are() -> None:
    held = site([0.1, -0.2], [32, 0])
    assert np.array_equal(held.stored(), np.array([0.1, 0.0], np.float32))
    with pytest.raises(DecisionError, match=r"has no grid: combine the decision with bit_widths"):
        held.integers()


def test_steps_must_be_as_many_as_channels() -> None:
    with pytest.raises(DecisionError, match=r"2 steps were given for values of shape \(3,\)"):
        replace(site([1.0, 2.0, 3.0]), quantizer=PerChannel((0.5, 0.25)))


def test_stored_numbers_stand_on_the_quantizer_and_bits_hold_them() -> None:
    values = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    kept = np.arange(120).reshape(3, 40) % 3 > 0
    before = SiteDecision(values, np.zeros_like(values), np.where(kept, 32, 0).astype(np.uint8))
    for quantizer in (Uniform(0.3), PerChannel((0.1, 0.25, 0.7)), Codebook((-0.8, 0.9)), Codebook((0.5, 1.0, 1.5))):
        held = before.on(quantizer)
        np.testing.assert_array_equal(held.stored(), np.where(kept, rounded(quantizer, values), 0), strict=True)
        assert (held.kept() == kept).all()
        largest = np.abs(held.integers()).max()
        assert held.bits.max() == max(2, 1 + np.ceil(np.log2(largest + 1)))


def test_of_two_grids_of_which_neither_is_coarser_there_is_no_combination() -> None:
    steps = PerChannel((1.0, 0.5))
    left, right = site([1.0, 2.0], 8, 0.25), replace(site([1.0, 2.0], 6), quantizer=steps)
    with pytest.raises(DecisionError, match=r"w: of Uniform.* and PerChannel.* neither is the coarser grid"):
        decision(w=left) & decision(w=right)
    for both in (decision(w=site([1.0, 2.0])) & decision(w=right), decision(w=right) & decision(w=right)):
        assert both.sites["w"].quantizer == steps


def test_shapes_must_agree() -> None:
    with pytest.raises(DecisionError, match=r"share one shape, found \(2,\), \(2,\), \(3,\)"):
        SiteDecision(np.zeros(2, np.float32), np.zeros(2, np.float32), np.zeros(3, np.uint8))


def test_composition_takes_fewer_bits_and_the_coarser_grid() -> None:
    left = Decision({"w": site([1.0, 2.0, 3.0], [0, 5, 8], 0.25)}, {"m": np.zeros(1)}, {"snr": 1.0, "c": 1})
    right = Decision({"w": site([1.0, 2.0, 3.0], [6, 6, 6], 0.5)}, {"v": np.ones(1)}, {"c": 4})
    both = left & right
    assert both.sites["w"].bits.tolist() == [0, 5, 6]
    assert both.sites["w"].quantizer == Uniform(0.5)
    assert both.made_by == {"snr": 1.0, "c": 4}
    assert set(both.buffers) == {"m", "v"}
    swapped = right & left
    assert np.array_equal(swapped.sites["w"].bits, both.sites["w"].bits)
    assert swapped.sites["w"].quantizer == Uniform(0.5)
    floats = Decision({"w": site([1.0, 2.0, 3.0])})
    for one in (floats & right, right & floats):
        assert one.sites["w"].quantizer == Uniform(0.5)
    assert (floats & floats).sites["w"].quantizer is None


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(DecisionError, match=r"different sites cannot be combined: b, c is in one only"):
        decision(a=site([1.0]), b=site([1.0])) & decision(a=site([1.0]), c=site([1.0]))
    with pytest.raises(DecisionError, match=r"a: decisions of shapes \(1,\) and \(2,\) cannot be combined"):
        decision(a=site([1.0])) & decision(a=site([1.0, 2.0]))
    with pytest.raises(DecisionError, match=r"a: the two decisions store different values; take both from one"):
        decision(a=site([1.0])) & decision(a=site([2.0]))


def test_what_one_prunes_is_pruned_whatever_bits_the_other_gives_it() -> None:
    pruned, rounded_ = site([1.0, 2.0, 40.0], [0, 32, 0]), site([1.0, 2.0, 40.0], 3, step=1.0)
    for both in (decision(w=pruned) & decision(w=rounded_), decision(w=rounded_) & decision(w=pruned)):
        assert both.sites["w"].bits.tolist() == [0, 3, 0] and both.sites["w"].stored().tolist() == [0.0, 2.0, 0.0]
    nothing = decision(w=site([1.0, 2.0, 40.0], 0)) & decision(w=replace(rounded_, quantizer=Codebook(())))
    assert not nothing.sites["w"].stored().any()


def test_bits_that_cut_weights_off_the_others_grid_are_refused() -> None:
    few, grid = site([1.0, -2.0, 9.0], 4), site([1.0, -2.0, 9.0], 7, step=0.25)
    # 9 / 0.25 = 36 needs 7 bits, 2 / 0.25 = 8 needs 5, and 4 hold up to 7
    with pytest.raises(
        DecisionError,
        match=r"w: 4 bits of one decision cut off 2 weights on the grid of the other, which needs 7: take",
    ):
        decision(w=few) & decision(w=grid)
    coarse = replace(grid, quantizer=Uniform(2.0))
    assert (decision(w=few) & decision(w=coarse)).sites["w"].stored().tolist() == [0.0, -2.0, 8.0]
    # an index of a codebook that is cut off would be another level
    levels = replace(site([1.0, -2.0, 9.0], 3), quantizer=Codebook((-2.0, 1.0, 9.0)))
    with pytest.raises(DecisionError, match=r"w: 2 bits of one decision cut off 1 weights on the grid of the other"):
        decision(w=levels) & decision(w=site([1.0, -2.0, 9.0], 2))


def test_bits_without_a_grid_and_codebooks_without_levels_are_refused() -> None:
    with pytest.raises(DecisionError, match=r"w: 5 bits, and neither decision says of which grid: combine with bit_w"):
        decision(w=site([1.0, 2.0], [0, 5])) & decision(w=site([1.0, 2.0]))
    with pytest.raises(DecisionError, match=r"w: 1 weights are kept, and the only value of the codebook is zero"):
        decision(w=site([0.0, 2.0])) & decision(w=replace(site([0.0, 2.0], 2), quantizer=Codebook(())))


def test_decisions_of_two_posteriors_or_of_two_networks_are_refused() -> None:
    with pytest.raises(DecisionError, match=r"a: the two decisions have different variances; take both from one"):
        decision(a=site([1.0])) & decision(a=replace(site([1.0]), variance=np.ones(1, np.float32)))
    plain, factors = {"fc1.weight": site([1.0])}, {"fc1.first.weight": site([1.0]), "fc1.second.weight": site([1.0])}
    with pytest.raises(
        DecisionError, match=r"fc1.first.weight, .* make both of one posterior, of the network as it was"
    ):
        Decision(plain) & Decision(factors)


def test_a_grid_that_no_file_can_say_is_refused() -> None:
    @dataclass(frozen=True)
    class Affine:
        """Integers from 0 to 255 whose zero point is 3."""

        step: float
        zero_point: int

    affine: Any = Affine(0.5, 3)
    with pytest.raises(DecisionError, match=r"all with zero at integer 0, and cannot say .*zero_point=3"):
        replace(site([1.0], 8), quantizer=affine)


def test_weights_left_counts_tensors_of_more_than_one_axis_only() -> None:
    weight = SiteDecision(np.ones((2, 3)), np.zeros((2, 3)), np.array([[0, 4, 4], [0, 0, 4]], np.uint8))
    assert decision(fc_weight=weight, fc_bias=site([1.0, 1.0])).weights_left() == (3, 6)


def test_with_sites_replaces_some_and_notes_why() -> None:
    before = decision(a=site([1.0]), b=site([2.0]))
    after = before.with_sites({"b": site([3.0])}, rate_weight=0.5)
    assert after.sites["a"] is before.sites["a"] and after.sites["b"].value.tolist() == [3.0]
    assert after.made_by == {"rate_weight": 0.5} and before.made_by == {}


def test_save_and_load_give_the_same_decision_and_the_same_bytes(tmp_path: Path) -> None:
    made = Decision(
        {"a.weight": site([1.5, -2.25], [0, 7], 2.0**-7), "a.bias": site([0.125])}
        | {"b": replace(site([1.0, 2.0], 5), quantizer=PerChannel((0.3, 1e-3)))}
        | {"c": replace(site([1.0, 2.0], 5), quantizer=Codebook((-0.1, 1.3)))}
        | {"factor": SiteDecision(np.array(0.5, np.float32), np.array(0.1, np.float32), np.array(32, np.uint8))},
        {"norm.running_mean": np.array([1.0, 2.0], np.float32)},
        {"snr": 0.7, "bit_rule": "fixed_point", "c": 4.0},
    )
    path = tmp_path / "decision.safetensors"
    made.save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    found = Decision.load(path)
    assert list(found.made_by.items()) == list(made.made_by.items())
    assert np.array_equal(found.buffers["norm.running_mean"], made.buffers["norm.running_mean"])
    for name, held in made.sites.items():
        for field in ("value", "variance", "bits"):
            assert np.array_equal(getattr(found.sites[name], field), getattr(held, field))
        assert isinstance(found.sites[name].kept(), np.ndarray) and found.sites[name].kept().shape == held.value.shape
        assert found.sites[name].quantizer == held.quantizer
    again = tmp_path / "again.safetensors"
    found.save(again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
def test_a_damaged_file_is_a_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "decision.safetensors"
    if damage != "missing":
        decision(a=site([1.0])).save(path)
        path.write_bytes(path.read_bytes()[:-3] if damage == "truncated" else b'{"json": 1}')
    with pytest.raises(
        DecisionError, match=r"decision.safetensors does not hold a decision: .*run `pyro-compress analyse` again"
    ):
        Decision.load(path)
