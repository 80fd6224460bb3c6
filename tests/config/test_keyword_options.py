"""Options of methods, priors, likelihoods and decisions are of the type that they say, from Python and by name."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.config.keyword_options import whole_number
from pyro_compress.errors import DecisionError, InferenceError, PriorError, PyroCompressError, RunError
from pyro_compress.inference.registry import METHODS
from pyro_compress.inference.results.predictive import posterior_predictive
from pyro_compress.models.likelihoods import LIKELIHOODS
from pyro_compress.models.priors.registry import PRIORS
from pyro_compress.pipeline.decision_settings import DecisionSettings
from pyro_compress.pipeline.settings import RunSettings

WRONG: list[tuple[type, dict[str, Any], str]] = [
    (pc.inference.SVI, {"epochs": 2.5}, r"'epochs' of SVI must be a whole number, found 2\.5"),
    (pc.inference.SVI, {"epochs": "3"}, "'epochs' of SVI must be a whole number, found '3'"),
    (pc.inference.SVI, {"epochs": True}, "'epochs' of SVI must be a whole number, found True"),
    (pc.inference.SVI, {"epochs": None}, "'epochs' of SVI must be a whole number, found None"),
    (pc.inference.MAP, {"batch_size": 32.0}, r"'batch_size' of MAP must be a whole number, found 32\.0"),
    (pc.inference.MAP, {"batch_size": np.float64(32)}, r"'batch_size' of MAP must be a whole number, found 32\.0"),
    (pc.inference.MAP, {"learning_rate": torch.tensor(0.1)}, "'learning_rate' of MAP must be a number, found tensor"),
    (pc.inference.MAP, {"learning_rate": math.nan}, "'learning_rate' of MAP must be a number, found nan"),
    (pc.inference.MAP, {"learning_rate": math.inf}, "learning_rate=inf"),
    (pc.inference.MAP, {"learning_rate": -1.0}, r"learning_rate=-1\.0"),
    (pc.inference.MAP, {"clip": -1.0}, r"clip is the largest norm of a gradient, above 0, or None; found -1\.0"),
    (pc.inference.MAP, {"optimizer": 3}, "'optimizer' of MAP must be a word or callable, found 3"),
    (pc.inference.SVI, {"draws": 1e3}, r"'draws' of SVI must be a whole number or None, found 1000\.0"),
    (pc.inference.SVI, {"shrink": 1}, "'shrink' of SVI must be True or False or None, found 1"),
    (pc.inference.SVI, {"shrink": "no"}, "'shrink' of SVI must be True or False or None, found 'no'"),
    (pc.inference.SVI, {"kl_weight": math.nan}, "'kl_weight' of SVI must be a number, found nan"),
    (pc.inference.SVI, {"rates": {"weight": "1"}}, "'rates' of SVI must be a mapping, each value a number"),
    (pc.inference.SVI, {"rates": {"weight": -1.0}}, r"multiples of learning_rate, at least 0; found weight=-1\.0"),
    (pc.inference.SGLD, {"chains": True}, "'chains' of SGLD must be a whole number, found True"),
    (pc.inference.NUTS, {"chains": 2.0}, r"'chains' of NUTS must be a whole number, found 2\.0"),
    (pc.inference.NUTS, {"warmup": 0.5}, r"'warmup' of NUTS must be a whole number, found 0\.5"),
    (pc.inference.HMC, {"step_size": math.nan}, "'step_size' of HMC must be a number or None, found nan"),
    (pc.inference.ImportanceSampling, {"draws": 1e3}, r"'draws' of ImportanceSampling must be a whole number"),
    (pc.inference.RejectionSampling, {"tries": 2.0}, "'tries' of RejectionSampling must be a whole number"),
    (pc.models.Normal, {"scale": "1"}, "'scale' of Normal must be a number, found '1'"),
    (pc.models.Normal, {"scale": math.nan}, "'scale' of Normal must be a number, found nan"),
    (pc.models.LogUniform, {"learned": 1}, "'learned' of LogUniform must be True or False, found 1"),
    (pc.models.GroupHorseshoe, {"tau": None}, "'tau' of GroupHorseshoe must be a number, found None"),
    (pc.models.Gaussian, {"noise": "low"}, "'noise' of Gaussian must be a number or None, found 'low'"),
    (pc.models.Gaussian, {"noise": -1.0}, r"needs noise > 0 or None.*found noise=-1\.0"),
    (DecisionSettings, {"fine_tune_epochs": 1.5}, "'fine_tune_epochs' of DecisionSettings must be a whole number"),
    (DecisionSettings, {"rate_weights": 1.0}, "must be a list, each a number"),
    (DecisionSettings, {"snr": math.nan}, "'snr' of DecisionSettings must be a number or None, found nan"),
    (DecisionSettings, {"fine_tune_batch_size": 0}, "fine_tune_batch_size is at least 1"),
    (DecisionSettings, {"c": -1.0}, r"must not be negative, found -1\.0"),
]


@pytest.mark.parametrize(("kind", "options", "sentence"), WRONG)
def test_a_value_of_another_type_is_refused(kind: type, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PyroCompressError, match=sentence) as refused:
        kind(**options)
    assert "\n" not in str(refused.value)


def test_by_name_as_well() -> None:
    for registry, name, options, error in (
        (METHODS, "svi", {"epochs": 2.5}, InferenceError),
        (PRIORS, "normal", {"scale": True}, PriorError),
        (LIKELIHOODS, "gaussian", {"noise": math.nan}, RunError),
    ):
        with pytest.raises(error, match=rf"option '{next(iter(options))}' of {registry.kind} '{name}' must be"):
            registry.build(name, options)
        with pytest.raises(error, match=rf"unknown {registry.kind} '{name}s': known are .* Did you mean '{name}'"):
            registry.build(f"{name}s")
    with pytest.raises(RunError, match="'seed' of RunSettings must be a whole number"):
        RunSettings("digits-softmax", "normal", "digits", seed=0.5)  # type: ignore[arg-type]
    with pytest.raises(DecisionError, match="'stored' of DecisionSettings must be a word"):
        DecisionSettings(stored=1)  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers_and_become_pythons() -> None:
    given: dict[str, Any] = {"epochs": np.int64(3), "learning_rate": np.float32(0.5), "shrink": np.bool_(False)}
    method = pc.inference.SVI(**given)
    assert repr(method) == repr(pc.inference.SVI(epochs=3, learning_rate=0.5, shrink=False))
    assert [type(value) for value in (method.epochs, method.learning_rate, method.shrink)] == [int, float, bool]
    decision: Any = DecisionSettings(rate_weights=[np.float64(0.5), 1])  # type: ignore[arg-type]
    assert decision.rate_weights == (0.5, 1) and type(decision.rate_weights[0]) is float


def test_defaults_of_everything_registered_are_of_their_types() -> None:
    for registry in (METHODS, PRIORS, LIKELIHOODS):
        for name in registry:
            registry.build(name)


def test_counts_among_the_arguments_of_functions() -> None:
    model = pc.BayesianNetwork(nn.Sequential(nn.Linear(2, 3)), pc.models.Normal())
    data = (torch.randn(6, 2), torch.arange(6) % 3)
    with pytest.raises(InferenceError, match=r"the seed must be a whole number, found 0\.5"):
        pc.fit(model, data, pc.inference.MAP(epochs=1), seed=0.5)  # type: ignore[arg-type]
    posterior = pc.fit(model, data, pc.inference.MAP(epochs=1))
    with pytest.raises(InferenceError, match=r"draws must be a whole number, found 10\.5"):
        posterior_predictive(model, posterior, data[0], draws=10.5)  # type: ignore[arg-type]
    for value in (1.0, True, "2", None):
        with pytest.raises(DecisionError, match="count must be a whole number"):
            whole_number(value, "count", DecisionError)
    with pytest.raises(DecisionError, match="count must be a whole number of at least 1, found 0"):
        whole_number(0, "count", DecisionError, least=1)
    assert whole_number(np.int32(4), "count", DecisionError) == 4


def test_priors_and_likelihoods_by_their_names() -> None:
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    model = pc.BayesianNetwork(network, "log-uniform", "poisson")
    assert model.prior == pc.models.LogUniform() and model.likelihood == pc.models.Poisson()
    model = pc.BayesianNetwork(network, {"0.weight": "group-horseshoe", "2.*": pc.models.Normal()})
    assert model.prior == {"0.weight": pc.models.GroupHorseshoe(), "2.*": pc.models.Normal()}
    with pytest.raises(PriorError, match=r"unknown prior 'log-unifrom': .*Did you mean 'log-uniform'"):
        pc.BayesianNetwork(network, "log-unifrom")
    with pytest.raises(RunError, match=r"unknown likelihood 'poison': .*Did you mean 'poisson'"):
        pc.BayesianNetwork(network, pc.models.Normal(), "poison")
