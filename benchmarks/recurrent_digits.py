"""A recurrent network from prior to files: an LSTM that reads the rows of the digits.

    python -m benchmarks.recurrent_digits

One log-uniform prior over all weights, of which the recurrent ones are drawn once per step; one fit, and two files: a
runnable one, and one of weights, which is measured in the module.
"""

import warnings

import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.data import load
from pyro_compress.report.measure import float32_bytes


class Rows(nn.Module):
    """(batch, 1, 8, 8) → logits of ten classes: the state after the last of eight rows."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 64, batch_first=True)
        self.out = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(x.reshape(-1, 8, 8))
        logits: torch.Tensor = self.out(hidden[:, -1])
        return logits


def main() -> None:
    """Fit, decide, compress, measure; print what each says."""
    warnings.simplefilter("ignore", pc.errors.SharedDrawsWarning)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data, network = load("digits"), Rows()
    model = pc.BayesianNetwork(network, "log-uniform")
    print(model.coverage)
    method = pc.inference.SVI(epochs=80, learning_rate=5e-3, kl_weight=0.1)
    posterior = pc.fit(model, data, method, seed=0)
    for kind in ("runnable", "weights"):
        settings = pc.DecisionSettings(fine_tune_epochs=5, kind=kind)
        decision = pc.decide(posterior, model, data, settings, say=print)
        artifact = pc.compress(model, decision, data=data, kind=kind)
        found = pc.evaluate(artifact, data, network=Rows() if kind == "weights" else None)
        error, spread = found["error_after_percent"], found["error_standard_error_percent"]
        rate = float32_bytes(network) / len(artifact)
        print(f"{kind}: {len(artifact):,} bytes, {rate:.1f}×, {error:.2f} ± {spread:.2f} % test error")


if __name__ == "__main__":
    main()
