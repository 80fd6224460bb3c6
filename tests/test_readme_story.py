"""The story of the documentation, told through the public names alone."""

from pathlib import Path

import pytest
import torch

import pyro_compress as pc


def test_from_a_network_to_a_smaller_one(tmp_path: Path) -> None:
    data = pc.data.load("digits")
    torch.manual_seed(0)
    net = pc.models.digits_mlp()
    untouched = {name: parameter.clone() for name, parameter in net.named_parameters()}
    model = pc.BayesianNetwork(net, prior=pc.models.GroupHorseshoe(), likelihood=pc.models.Categorical())
    posterior = pc.fit(model, data, pc.inference.SVI(epochs=8, learning_rate=8e-3, kl_weight=0.1))
    decision = pc.analysis.prune(posterior, snr=1.0) & pc.analysis.bit_widths(posterior)
    artifact = pc.compress(net, decision, data.input_shape)
    path = artifact.save(tmp_path / "digits.pyrc")
    small = pc.load(path).to_torch()

    assert all(torch.equal(parameter, untouched[name]) for name, parameter in net.named_parameters())
    assert isinstance(posterior, pc.Posterior) and isinstance(artifact, pc.Artifact)
    assert path.stat().st_size == len(artifact) < 4 * sum(p.numel() for p in net.parameters()) / 6
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())
    x, y = data.part("test")
    with torch.no_grad():
        assert float((small(x).argmax(1) != y).float().mean()) < 0.12
    kept, total = decision.weights_left()
    assert 0 < kept < total == 64 * 100 + 100 * 50 + 50 * 10


@pytest.mark.parametrize("prior", ["Normal", "ScaleMixture", "LogUniform", "GroupNormalJeffreys", "GroupHorseshoe"])
def test_prior_and_method_are_changed_by_one_word(prior: str) -> None:
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    data = pc.data.as_data((x, (x[:, 0] > 0).long()), validation=0.25)
    net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    model = pc.BayesianNetwork(net, getattr(pc.models, prior)())
    methods = [pc.inference.SVI(epochs=1)] + ([pc.inference.MAP(epochs=1)] if prior == "Normal" else [])
    for method in methods:
        posterior = pc.fit(model, data, method)
        decision = pc.analysis.prune(posterior) & pc.analysis.bit_widths(posterior)
        assert pc.compress(net, decision, data.input_shape).to_torch()(x).shape == (64, 2)
