"""From a decision on any quantizer through fine-tuning on it to a file that computes what was judged."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.analysis.decisions.kept_deviations import stored_network
from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.data.examples import as_data
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.quantizers import Codebook, PerChannel, Quantizer, Uniform
from pyro_compress.pipeline import time_left
from pyro_compress.pipeline.fine_tuning import fine_tuned
from pyro_compress.pipeline.validation import place


def quantizer(kind: str, channels: int) -> Quantizer:
    if kind == "step":
        return Uniform(0.11)
    if kind == "steps":
        return PerChannel(tuple((0.05 + 0.01 * np.arange(channels)).tolist()))
    return Codebook((-0.45, 0.4) if kind == "ternary" else (-0.9, -0.5, -0.2, 0.15, 0.35, 0.8))


@pytest.mark.parametrize("kind", ["step", "steps", "ternary", "levels"])
@pytest.mark.parametrize("normed", [False, True])
def test_what_is_tuned_is_what_the_file_computes(kind: str, normed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a batch norm the units that are read are trained as a smaller network, whose rows have their steps."""
    torch.manual_seed(0)
    x = torch.randn(200, 6)
    data = as_data((x, (x[:, :3]).argmax(1)))
    middle: list[nn.Module] = [nn.BatchNorm1d(8)] if normed else []
    network = nn.Sequential(nn.Linear(6, 8), *middle, nn.ReLU(), nn.Linear(8, 3))
    sites = {}
    for name, parameter in network.named_parameters():
        value = parameter.detach().numpy().copy()
        site = SiteDecision(value, np.full_like(value, 1e-3), np.full(value.shape, 32, np.uint8))
        if value.ndim > 1:
            site.bits[:, ::5] = 0  # the inputs and hidden units 0 and 5 are not read
            site = site.on(quantizer(kind, len(value)))
        sites[name] = site
    statistics = {name: buffer.numpy().copy() for name, buffer in network.named_buffers() if "running" in name}
    said: list[str] = []
    monkeypatch.setattr(time_left, "SAID_FROM", 0)
    tuned = fine_tuned(
        Decision(sites, statistics), copy.deepcopy(network), data, Categorical(),
        epochs=3, rate_weight=0.1, batch_size=40, learning_rate=0.02, noise=0.0, teacher=None, seed=0, say=said.append,
    )  # fmt: skip
    assert said == ["training on the grid with rate weight 0.1: about 0 min left"]
    for name, site in tuned.sites.items():
        assert site.quantizer == sites[name].quantizer
        assert not site.stored()[sites[name].bits == 0].any()
        assert not np.array_equal(site.stored(), sites[name].stored())
    artifact = Artifact.of(stored_network(trace(network, (6,)), tuned))
    first = artifact.network.tensors["0.weight"]
    assert first.shape == (6, 4) and type(first.quantizer) is type(sites["0.weight"].quantizer)
    place(network, tuned)
    with torch.no_grad():
        expected = network.eval()(x[:20])
        found = artifact.to_torch()(x[:20])
    tolerance = 0.05 if normed else 1e-5  # the scales and shifts of batch norms go to grids of their own
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(forward(artifact.network)(x[:20].numpy()), found.numpy(), atol=1e-5 * scale)
