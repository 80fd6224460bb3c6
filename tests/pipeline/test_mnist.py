"""The road on real MNIST, shortened: it must learn, prune, shrink and still classify after decoding."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.named import load
from pyro_compress.inference.fit import fit
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.networks import lenet_300_100
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.pipeline.compressing import compress
from pyro_compress.pipeline.decision_settings import DecisionSettings
from pyro_compress.pipeline.search import decide
from pyro_compress.pipeline.validation import place
from pyro_compress.report.measure import float32_bytes, measure, predict


def _part_of_mnist(folder: Path) -> DataSet:
    whole = load("mnist", folder)
    parts = {"train": 12000, "validation": 2000, "test": 2000}
    held = {f"{part}_{kind}": getattr(whole, f"{part}_{kind}")[:n] for part, n in parts.items() for kind in "xy"}
    return replace(whole, **held)


def test_sparse_variational_dropout_compresses_mnist(mnist_dir: Path) -> None:
    data = _part_of_mnist(mnist_dir)
    torch.manual_seed(0)
    network = lenet_300_100()
    likelihood = Categorical()
    # a large rate on few images: sparsity that takes a full run many epochs to reach
    method = SVI(epochs=4, batch_size=128, learning_rate=2e-3, kl_weight=0.1)
    posterior = fit(BayesianNetwork(network, LogUniform(), likelihood), data, method, seed=0)
    decision = decide(posterior, network, data, DecisionSettings(fine_tune_epochs=3, rate_weights=(0.05,)))
    artifact = compress(network, decision, data.input_shape)
    measured = measure(artifact, *data.part("test"), likelihood, float32_bytes(network))

    assert measured.error_percent < 10.0
    assert measured.file_rate > 40.0
    place(network, decision)
    masked = predict(network, *data.part("test"), likelihood)
    decoded = predict(artifact.to_torch(), *data.part("test"), likelihood)
    np.testing.assert_allclose(decoded.nll_nats, masked.nll_nats, atol=1e-3)
