"""The ArviZ export under the installed ArviZ and, if there is one, under another; the files named here need no torch.

`PYRO_COMPRESS_PYTHON312` names a Python 3.12 or newer with arviz 1.x, netCDF4, matplotlib, safetensors and pytest.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_compress.analysis.diagnosis.arviz_export import to_arviz
from pyro_compress.analysis.diagnosis.arviz_versions import (
    arviz,
    group,
    has_data_trees,
    has_group,
    hdi,
    pareto_smoothed,
)
from pyro_compress.errors import InferenceError
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import Groups, Latent, ParameterPosterior, Posterior

ROOT = Path(__file__).parents[3]
OTHER = "PYRO_COMPRESS_PYTHON312"
FILES = (
    "analysis/diagnosis/test_arviz_export.py",
    "analysis/diagnosis/test_diagnostics.py",
    "analysis/diagnosis/test_psis.py",
    "report/test_diagnostic_figures.py",
)
LOC = np.arange(1200, dtype=np.float32).reshape(30, 40)
SHAPES: dict[str, tuple[int, ...]] = {"fc.weight.unscaled": (30, 40), "fc.weight.z": (40,), "fc.bias": (30,), "tau": ()}


def parameters() -> dict[str, ParameterPosterior]:
    mean, bias = np.zeros((30, 40), np.float32), np.zeros(30, np.float32)
    groups = Groups(1, np.ones(40, np.float32))
    return {
        "fc.weight": ParameterPosterior(mean, mean + 1, "GroupNormalJeffreys", groups),
        "fc.bias": ParameterPosterior(bias, bias + 1, "Normal"),
    }


def guide(latents: Mapping[str, Latent]) -> Posterior:
    return Posterior(parameters(), latents)


def chains(log_weight: np.ndarray | None = None, kind: str = "chains", count: int = 6) -> Posterior:
    """Draws whose values say where they come from: 1000 · chain + draw, plus site offsets."""
    width = sum(int(np.prod(shape)) for shape in SHAPES.values())
    chain, draw = np.indices((2 if kind == "chains" else 1, count))
    flat = (1000 * chain + draw)[..., None] + np.linspace(0, 0.5, width)
    statistics = {"lp": (1000 * chain + draw).astype(float), "diverging": (draw == 2).astype(float)}
    return Posterior(parameters(), kind=kind, draws=Draws(flat, SHAPES, log_weight, statistics))


# ---- groups, variables, names ---------------------------------------------------------------------------------


def test_the_container_is_what_the_installed_arviz_takes() -> None:
    exported = to_arviz(chains())
    assert type(exported).__name__ == ("DataTree" if has_data_trees() else "InferenceData")
    table = arviz().summary(exported, var_names=["tau"])
    assert list(table.index) == ["tau"]
    assert exported.posterior["tau"].dims == ("chain", "draw")


def test_a_posterior_gives_the_same_by_its_method() -> None:
    mine, other = (
        group(found, "posterior") for found in (chains().to_arviz(sites="t*"), to_arviz(chains(), sites="t*"))
    )
    assert mine.identical(other) and set(mine.data_vars) == {"tau"}


def test_sites_statistics_and_axes_have_their_names() -> None:
    exported = to_arviz(chains(), weights=50)
    posterior, statistics = group(exported, "posterior"), group(exported, "sample_stats")
    assert set(posterior.data_vars) == {"fc.weight.z", "fc.bias", "tau", "weights", "layer_norm", "log_joint"}
    assert posterior["fc.weight.z"].dims == ("chain", "draw", "fc_in")
    assert posterior["fc.bias"].dims == ("chain", "draw", "fc_out")
    assert posterior["layer"].values.tolist() == ["fc.weight.unscaled"]
    assert posterior["weight_layer"].values.tolist() == ["fc.weight"] * 50
    assert statistics["diverging"].dtype == bool and statistics["diverging"].sum() == 2
    np.testing.assert_array_equal(posterior["log_joint"], statistics["lp"])
    assert posterior["tau"].values[1, 3] == pytest.approx(1003.5)


NAMES = [
    *("chain", "draw", "sample", "log_joint", "weights", "predictions", "layer", "hdi", "x_dim_0", "group/mean"),
    *("group.mean", "/", ".", "..", "", " padded", "a/b_dim_0", "log-sd", "φ", "metric"),
]


def test_every_site_keeps_its_draws_whatever_it_is_called(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(NAMES, ()) | {"x": (2,), "a/b": (3,)}
    values = np.random.default_rng(0).normal(size=(2, 40, len(NAMES) + 5)) + np.arange(len(NAMES) + 5)
    held = Draws(values, shapes, None, {"lp": values[..., 0]})
    exported = to_arviz(
        Posterior({}, kind="chains", draws=held),
        prior={"group/mean": np.ones((1, 5)), "x": np.ones((1, 5, 2))},
        observed_data={"draw": np.zeros(4)},
        posterior_predictive={"example": np.zeros((2, 40, 4, 2))},
    )
    found = group(exported, "posterior")
    renamed = dict(part.split(" is ") for part in found.attrs["renamed"].split("; "))
    for name in shapes:
        np.testing.assert_array_equal(found[renamed.get(name, name)].values, held.site(name), err_msg=name)
    assert "log-sd" not in renamed and "group.mean" not in renamed and renamed["chain"] == "chain_"
    assert set(group(exported, "prior").data_vars) == {renamed["group/mean"], "x"}
    exported.to_netcdf(str(tmp_path / "draws.nc"))
    assert len(arviz().summary(exported)) == len(NAMES) + 5 + 1


def test_a_small_matrix_goes_whole_with_both_axes() -> None:
    small = Posterior(
        {"0.weight": ParameterPosterior(np.zeros((3, 4), np.float32), np.ones((3, 4), np.float32), "Normal")},
        {"0.weight": Latent("normal", np.zeros((3, 4), np.float32), np.ones((3, 4), np.float32))},
    )
    posterior = group(to_arviz(small, draws=20), "posterior")
    assert posterior["0.weight"].dims == ("chain", "draw", "0_out", "0_in")
    np.testing.assert_allclose(
        posterior["layer_norm"].values[0, :, 0], np.linalg.norm(posterior["0.weight"].values[0].reshape(20, 12), axis=1)
    )


def test_large_sites_give_a_labelled_sample_and_the_rest_is_named() -> None:
    exported = to_arviz(guide({"fc.weight.unscaled": Latent("normal", LOC, np.full_like(LOC, 1e-3))}), draws=10, seed=2)
    sample = group(exported, "posterior")["weights"]
    assert sample.shape == (1, 10, 200)
    for label, value in zip(sample.coords["weight"].values, sample.values[0, 0], strict=True):
        row, column = (int(i) for i in label.removeprefix("fc.weight.unscaled[").removesuffix("]").split(","))
        assert value == pytest.approx(LOC[row, column], abs=0.01)
    assert len(set(sample.coords["weight"].values)) == 200
    attributes = group(exported, "posterior").attrs
    assert attributes["left_out"] == "1,000 of 1,200 elements of fc.weight.unscaled"
    assert attributes["draws_are"] == "guide"
    everything = group(to_arviz(guide({"fc.weight": Latent("normal", LOC, LOC)}), draws=2, weights=None), "posterior")
    assert everything["fc.weight"].shape == (1, 2, 30, 40) and everything.attrs["left_out"] == "nothing"


def test_the_weight_goes_and_not_its_factor_nor_what_does_not_vary() -> None:
    sites = {"fc.weight.unscaled": (30, 40), "fc.weight.z": (40,), "fc.weight": (30, 40), "fc.bias": (30,)}
    held = parameters()
    held["fc.bias"] = ParameterPosterior(held["fc.bias"].mean, 0 * held["fc.bias"].mean, "point")
    draws = Draws(np.random.default_rng(0).normal(size=(2, 5, 2470)), sites)
    posterior = Posterior(held, kind="chains", draws=draws)
    exported = group(to_arviz(posterior, weights=30), "posterior")
    assert set(exported.data_vars) == {"fc.weight.z", "weights", "layer_norm"}
    assert all(label.startswith("fc.weight[") for label in exported["weight"].values)
    assert exported["layer"].values.tolist() == ["fc.weight"]
    assert exported.attrs["left_out"] == (
        "point estimates: fc.bias; factors of weights that are exported: fc.weight.unscaled; "
        "1,170 of 1,200 elements of fc.weight"
    )
    asked = group(to_arviz(posterior, sites=["fc.bias", "*.unscaled"]), "posterior")
    assert set(asked.data_vars) == {"fc.bias", "weights", "layer_norm"}


def test_a_site_whose_name_begins_with_that_of_another_goes_too() -> None:
    """Such as 'a' and 'a.b' of a Pyro model: neither is a factor of the other."""
    shapes = {"a": (3,), "a.b": (3,)}
    sites = {name: ParameterPosterior(np.zeros(3, np.float32), np.ones(3, np.float32), "site") for name in shapes}
    draws = Draws(np.arange(24, dtype=np.float32).reshape(1, 4, 6), shapes)
    found = to_arviz(Posterior(sites, kind="chains", draws=draws)).posterior
    assert found["a.b"].values[0, 0].tolist() == [3, 4, 5] and found.attrs["left_out"] == "nothing"


def test_the_sample_of_chains_is_that_of_their_sites() -> None:
    posterior, exported = chains(), group(to_arviz(chains(), weights=7), "posterior")
    assert posterior.draws is not None
    site = posterior.draws.site("fc.weight.unscaled")
    for place, label in enumerate(exported["weight"].values):
        row, column = (int(i) for i in label.partition("[")[2].removesuffix("]").split(","))
        np.testing.assert_array_equal(exported["weights"].values[:, :, place], site[:, :, row, column])
    norms = np.linalg.norm(site.reshape(2, 6, -1), axis=2)
    np.testing.assert_allclose(exported["layer_norm"].values[:, :, 0], norms)


@pytest.mark.parametrize(
    ("sites", "variables"),
    [
        ("tau", {"tau"}),
        (["tau", "log_*"], {"tau", "log_joint"}),
        ("fc.weight.*", {"fc.weight.z", "weights", "layer_norm"}),
        ("predictions", {"predictions"}),
    ],
)
def test_sites_select_by_name_or_pattern(sites: str | list[str], variables: set[str]) -> None:
    exported = group(to_arviz(chains(), sites=sites, predictions=np.zeros((2, 6, 3))), "posterior")
    assert set(exported.data_vars) == variables
    assert "sites not asked for" in exported.attrs["left_out"]


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(InferenceError, match=r"sites 'fc9.\*' matches nothing: there are fc.weight.unscaled, "):
        to_arviz(chains(), sites=["tau", "fc9.*"])


def test_given_groups_keep_their_shapes_and_labels() -> None:
    exported = to_arviz(
        chains(),
        predictions=np.full((2, 6, 3, 2), 0.5),
        log_likelihood={"y": np.full((2, 6, 5), -1.0)},
        posterior_predictive={"y": np.zeros((2, 6, 5), int)},
        prior={"fc.weight.z": np.ones((1, 9, 40)), "tau": np.ones((1, 9))},
        observed_data={"y": np.arange(5)},
        layer_norms={"fc": np.ones((2, 6))},
        coords={"class": ["cat", "dog"], "held_out": [7, 8, 11]},
    )
    posterior = group(exported, "posterior")
    assert posterior["predictions"].dims == ("chain", "draw", "held_out", "class")
    assert posterior["class"].values.tolist() == ["cat", "dog"]
    assert posterior["held_out"].values.tolist() == [7, 8, 11]
    assert posterior["layer"].values.tolist() == ["fc"]
    assert group(exported, "log_likelihood")["y"].dims == ("chain", "draw", "example")
    assert group(exported, "prior")["fc.weight.z"].dims == ("chain", "draw", "fc_in")
    assert group(exported, "observed_data")["y"].values.tolist() == [0, 1, 2, 3, 4]
    assert has_group(exported, "posterior_predictive") and not has_group(to_arviz(chains()), "prior")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"predictions": np.zeros((2, 5, 3))}, r"predictions has the shape \(2, 5, 3\), expected .* = \(2, 6, ...\)"),
        ({"predictions": np.zeros((2, 6))}, "predictions have 2 axes"),
        ({"log_likelihood": {"y": np.zeros((1, 6, 3))}}, r"log_likelihood\['y'\] has the shape \(1, 6, 3\)"),
        ({"predictions": np.zeros((2, 6, 3)), "coords": {"held_out": [1]}}, "'held_out' has 1 labels"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"weights": -1}, "weights must be at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InferenceError, match=sentence):
        to_arviz(chains(), **changes)


def test_a_point_estimate_is_refused() -> None:
    with pytest.raises(InferenceError, match="a point estimate has no draws to export"):
        to_arviz(Posterior(parameters(), kind="point"))


# ---- values ---------------------------------------------------------------------------------------------------


def test_small_sites_agree_with_the_guide() -> None:
    scales = Latent("lognormal", np.array([0.0, 1.0], np.float32), np.array([0.5, 0.1], np.float32))
    mean = group(to_arviz(guide({"scales": scales}), draws=4000, seed=1), "posterior")["scales"].mean(("chain", "draw"))
    expected = np.exp([0.125, 1.005])
    # five standard errors of a log-normal mean over 4,000 draws
    error = expected * np.sqrt(np.expm1([0.25, 0.01]) / 4000)
    assert np.all(np.abs(mean.values - expected) < 5 * error)


def test_a_seed_gives_the_same_export_whatever_else_is_exported() -> None:
    posterior = guide({"fc.weight": Latent("normal", LOC, np.ones_like(LOC)), "tau": Latent("normal", LOC[0], LOC[0])})
    first, again = (group(to_arviz(posterior, draws=5, seed=3), "posterior") for _ in range(2))
    np.testing.assert_array_equal(first["weights"], again["weights"])
    alone = group(to_arviz(posterior, draws=5, seed=3, sites="tau"), "posterior")
    np.testing.assert_array_equal(first["tau"], alone["tau"])
    other = group(to_arviz(posterior, draws=5, seed=4), "posterior")
    assert not np.array_equal(first["tau"], other["tau"])


def test_importance_weights_are_honoured() -> None:
    log_weight = np.log(np.array([[0.1, 0.4, 0.0 + 1e-300, 0.2, 0.2, 0.1]])) + 700
    exported = to_arviz(chains(log_weight, kind="iid"), draws=1000, predictions=np.arange(6.0).reshape(1, 6, 1))
    posterior, statistics = group(exported, "posterior"), group(exported, "sample_stats")
    drawn = posterior["predictions"].values[0, :, 0].astype(int)
    # systematic draws miss the expected count by less than one
    assert np.abs(np.bincount(drawn, minlength=6) - [100, 400, 0, 200, 200, 100]).max() <= 1
    np.testing.assert_array_equal(statistics["lp"].values[0], drawn)
    np.testing.assert_allclose(statistics["log_weight"].values[0], log_weight[0, drawn])
    np.testing.assert_allclose(posterior["tau"].values[0], drawn + 0.5)
    assert posterior.attrs["effective_draws"] == pytest.approx(1 / (2 * 0.1**2 + 2 * 0.2**2 + 0.4**2))
    assert "drawn again by their weights" in posterior.attrs["resampled"]


def test_weighted_chains_stay_chains_in_order() -> None:
    log_weight = np.log(np.array([[0.5, 0.1, 0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1, 0.1, 0.5]]))
    drawn = group(to_arviz(chains(log_weight), seed=5), "posterior")["tau"].values - 0.5
    assert drawn.shape == (2, 6)
    assert (np.diff(drawn, axis=1) >= 0).all()
    assert (drawn[0] < 100).all() and (drawn[1] >= 1000).all()
    assert (drawn[0] == 0).sum() == 3 and (drawn[1] == 1005).sum() == 3


# ---- where versions differ ------------------------------------------------------------------------------------


def test_intervals_hold_their_share_of_the_draws() -> None:
    draws = np.random.default_rng(0).exponential(size=(2, 4000))
    posterior = Posterior({}, kind="chains", draws=Draws(draws[..., None], {"a": ()}))
    lower, upper = hdi(group(to_arviz(posterior), "posterior"), 0.9)
    # the shortest 90 % of an exponential are [0, ln 10]
    assert float(lower["a"]) < 0.01
    assert float(upper["a"]) == pytest.approx(np.log(10), abs=0.1)


@pytest.mark.parametrize("k", [0.3, 0.6, 0.9])
def test_pareto_shape_of_a_heavy_tail(k: float) -> None:
    """P(r > t) ~ t^(-1/k) for ratios r = u^(-k), u uniform: here at the quantiles."""
    uniform = (np.random.default_rng(1).permutation(20_000) + 0.5) / 20_000
    smoothed, found = pareto_smoothed(-k * np.log(uniform))
    assert found == pytest.approx(k, abs=0.05)
    assert np.exp(smoothed).sum() == pytest.approx(1.0)


def test_the_adapter_loads_no_torch() -> None:
    module = "pyro_compress.analysis.diagnosis.arviz_export"
    code = f"import sys; import {module}; assert not {{'torch', 'pyro'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not has_data_trees(), reason="the installed ArviZ is 0.23")
def test_in_arviz_1_an_export_is_a_data_tree() -> None:
    exported = to_arviz(chains(), log_likelihood={"y": np.random.default_rng(0).normal(size=(2, 6, 5))})
    assert set(exported.children) == {"posterior", "sample_stats", "log_likelihood"}
    assert float(arviz().ess(exported.posterior, method="bulk")["tau"]) > 0


@pytest.mark.skipif(not os.environ.get(OTHER), reason=f"{OTHER} names no Python with arviz 1.x")
def test_this_file_passes_under_the_other_arviz() -> None:
    other = os.environ[OTHER]
    environment = {name: value for name, value in os.environ.items() if name != OTHER} | {"PYTHONPATH": str(ROOT)}
    files = [ROOT / "tests" / name for name in FILES]
    command = [other, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
