"""Draws: weighted moments, selection, and the way to disk and back."""

from pathlib import Path

import numpy as np
import pytest

from pyro_compress.errors import InferenceError
from pyro_compress.posterior import draws as draws_module
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior

SHAPES = {"a": (2, 3), "b": ()}


def made(chains: int = 2, count: int = 5, weighted: bool = False) -> Draws:
    generator = np.random.default_rng(3)
    flat = (100.0 + generator.normal(size=(chains, count, 7))).astype(np.float32)
    log_weight = generator.normal(size=(chains, count)) if weighted else None
    return Draws(flat, SHAPES, log_weight, {"lp": generator.normal(size=(chains, count))})


def test_a_site_is_its_slice() -> None:
    draws = made()
    np.testing.assert_array_equal(draws.site("a"), draws.flat[:, :, :6].reshape(2, 5, 2, 3))
    np.testing.assert_array_equal(draws.site("b"), draws.flat[:, :, 6])
    with pytest.raises(InferenceError, match="no draws of 'c': the sites are a, b"):
        draws.site("c")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("piece_bytes", [1, 2**20])
def test_moments_are_the_weighted_ones(weighted: bool, piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws_module, "PIECE_BYTES", piece_bytes)
    draws = made(weighted=weighted)
    x = draws.site("a").astype(np.float64).reshape(10, 2, 3)
    w = np.full(10, 0.1) if draws.log_weight is None else np.exp(draws.log_weight.ravel())
    w = w / w.sum()
    mean = np.einsum("s,sij->ij", w, x)
    found_mean, found_variance = draws.moments()["a"]
    np.testing.assert_allclose(found_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found_variance, np.einsum("s,sij->ij", w, (x - mean) ** 2), rtol=1e-9)


def test_weights_sum_to_one_however_large_their_logarithms() -> None:
    draws = Draws(np.zeros((1, 3, 7)), SHAPES, np.array([[1000.0, 1000.0 + np.log(3.0), -np.inf]]))
    np.testing.assert_allclose(draws.weights(), [[0.25, 0.75, 0.0]])
    assert draws.effective_count() == pytest.approx(1 / (0.25**2 + 0.75**2))
    assert made().effective_count() == pytest.approx(10)


def test_rows_give_every_draw_with_its_weight() -> None:
    draws = made(weighted=True)
    rows = list(draws.rows())
    assert sum(weight for weight, _ in rows) == pytest.approx(1.0)
    np.testing.assert_array_equal(rows[7][1]["a"], draws.site("a")[1, 2])


def test_one_chain_of_several() -> None:
    draws = made(weighted=True)
    one = draws.select(1)
    np.testing.assert_array_equal(one.site("a"), draws.site("a")[1:])
    assert one.log_weight is not None and one.statistics["lp"].shape == (1, 5)
    with pytest.raises(InferenceError, match="there is no chain 2: chains are 0 to 1"):
        draws.select(2)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InferenceError, match=r"expected \(chain, draw, 7\) for the sites a, b"):
        Draws(np.zeros((1, 3, 6)), SHAPES)
    with pytest.raises(InferenceError, match=r"'lp' has the shape \(3,\), expected \(chain, draw\) = \(1, 3\)"):
        Draws(np.zeros((1, 3, 7)), SHAPES, None, {"lp": np.zeros(3)})


def test_a_posterior_takes_its_draws_to_disk_and_back(tmp_path: Path) -> None:
    draws, zero = made(weighted=True), np.zeros(1, np.float32)
    path = tmp_path / "posterior.safetensors"
    Posterior({"w": ParameterPosterior(zero, zero, "Normal")}, kind="chains", draws=draws).save(path)
    found = Posterior.load(path).draws
    assert found is not None and isinstance(found.flat, np.memmap)
    np.testing.assert_array_equal(found.flat, draws.flat)
    assert dict(found.shapes) == SHAPES
    np.testing.assert_array_equal(found.weights(), draws.weights())
    np.testing.assert_array_equal(found.statistics["lp"], draws.statistics["lp"])
    again = Posterior({"w": ParameterPosterior(zero, zero, "Normal")}, kind="chains", draws=found)
    again.save(path)  # over the file that it reads from
    np.testing.assert_array_equal(Posterior.load(path).draws.flat, draws.flat)  # type: ignore[union-attr]


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    made().save(tmp_path)
    (tmp_path / "draws.npy").write_bytes(b"nothing")
    with pytest.raises(InferenceError, match="does not hold draws"):
        Draws.load(tmp_path)


def test_latents_are_sampled_from_the_draws_by_weight() -> None:
    flat = np.array([[[0.0], [1.0], [2.0]]], np.float32)
    draws = Draws(flat, {"a": ()}, np.log(np.array([[0.5, 0.5, 1e-12]])))
    posterior = Posterior({}, kind="iid", draws=draws)
    taken = posterior.sample_latents(2000, seed=1)["a"]
    assert set(taken.tolist()) == {0.0, 1.0}
    assert taken.mean() == pytest.approx(0.5, abs=0.05)
    with pytest.raises(InferenceError, match="needs its draws"):
        Posterior({}, kind="chains")
