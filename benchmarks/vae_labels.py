"""Errors of MNIST's digits with 100 labels: rows of docs/generative.md (Kingma, Mohamed, Rezende & Welling 2014).

    python -m benchmarks.vae_labels classifier
    python -m benchmarks.vae_labels m2 --labels relaxed --epochs 40
    python -m benchmarks.vae_codes gaussian --keep FOLDER
    python -m benchmarks.vae_labels m1+m2 --m1 FOLDER/gaussian.pt

Ten labels of each class of the 55,000 training images, drawn with seed 0; images are statically binarised unless
`--binarisation` says otherwise.  Every line is an epoch's error on the 5,000 validation images, by which settings may
be chosen; `--test` measures on the test set at the end, once they are.  One thread.  M2 has the paper's α = 0.1, and
its width: codes of 50 (`--width`), one hidden layer of 300 (`--hidden`).  M1 is the VAE of `benchmarks.vae_codes`,
which saw no label, as wide as it was fitted.
"""

import argparse
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pyro_compress as pc
from benchmarks.vae_codes import network
from pyro_compress.inference.results.predictive import posterior_predictive

ACTIVATIONS = {"softplus": nn.Softplus, "relu": nn.ReLU, "tanh": nn.Tanh}


def layers(*widths: int, activation: str, dropout: float = 0.0) -> nn.Sequential:
    """Dense layers with an activation between them, of flattened inputs; dropout of what layers behind it take."""
    made: list[nn.Module] = [nn.Flatten()]
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        made += [ACTIVATIONS[activation]()] if number else []
        made += [nn.Dropout(dropout)] if number and dropout else []
        made.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*made)


def m1(data: pc.DataSet, given: argparse.Namespace) -> pc.DataSet:
    """The data by codes of a VAE that saw no label."""
    kept = torch.load(given.m1, weights_only=True)
    values = {name: value for name, value in kept.items() if name.startswith("encoder.")}
    hidden = len(values["encoder.1.weight"])
    model = pc.VAE(network(pc.models.GaussianCodes(50), hidden=hidden), {}, "bernoulli")
    return pc.models.coded(model, values, data, draws=given.draws)


def m2(inputs: int, given: argparse.Namespace, likelihood: Any) -> pc.SemiSupervisedVAE:
    """Classifier, encoder and decoder with one hidden layer of 300."""
    codes = pc.models.GaussianCodes(given.width)
    torch.manual_seed(0)
    parts = pc.models.LabelledEncoderDecoder(
        layers(inputs, given.hidden, 10, activation=given.activation, dropout=given.dropout),
        layers(inputs + 10, given.hidden, codes.outputs, activation=given.activation),
        layers(codes.width + 10, given.hidden, inputs, activation=given.activation),
        codes,
    )
    return pc.SemiSupervisedVAE(
        parts,
        {},
        likelihood,
        alpha=given.alpha,
        labels=given.labels,
        temperature=given.temperature,
        labelled_share=given.labelled_share,
    )


def said(record: Any, state: Any) -> None:
    """A line per epoch."""
    error = 100 * record.validation_error
    print(f"epoch {record.epoch + 1:3d}  validation {error:5.2f} %  bound {record.elbo_nats:.0f}", flush=True)


def main() -> None:
    """The curve, and the row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("classifier", "m2", "m1+m2"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=50, help="numbers of a code of M2")
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--labels", choices=("summed", "relaxed"), default="summed")
    parser.add_argument(
        "--labelled-share", type=float, default=0.1, help="of every batch that has labels; 0: as they come"
    )
    parser.add_argument("--binarisation", choices=("static", "dynamic"), default="static")
    parser.add_argument("--hidden", type=int, default=300)
    parser.add_argument("--dropout", type=float, default=0.0, help="of the classifier's hidden units")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--activation", choices=tuple(ACTIVATIONS), default="relu")
    parser.add_argument("--compile", choices=("always", "never"), default="always")
    parser.add_argument("--m1", type=Path, help="file of M1's values")
    parser.add_argument("--draws", type=int, default=1, help="codes per training image; 0 for means")
    parser.add_argument("--test", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    data = pc.data.load("mnist").binarised(given.binarisation).with_labels(100)
    if given.model == "m1+m2":
        data = m1(data, given)
    if given.model == "classifier":
        data = data.labelled()
        torch.manual_seed(0)
        model: Any = pc.BayesianNetwork(layers(784, 300, 10, activation=given.activation), pc.models.Normal(scale=1.0))
        posterior = pc.fit(model, data, pc.inference.MAP(epochs=given.epochs, batch_size=100))
    else:
        inputs = data.input_shape[-1] if given.model == "m1+m2" else 784
        likelihood = pc.models.Gaussian() if given.model == "m1+m2" else "bernoulli"
        model = m2(inputs, given, likelihood)
        method = pc.inference.SVI(
            epochs=given.epochs,
            batch_size=given.batch_size,
            learning_rate=given.learning_rate,
            schedule="linear",
            kl_warmup=0.0,
            compile=given.compile,
        )
        posterior = pc.fit(model, data, method, callbacks=[said])
    for part, x, y in [("validation", data.validation_x, data.validation_y), ("test", data.test_x, data.test_y)]:
        if part == "validation" or given.test:
            errors = posterior_predictive(model, posterior, x, y, draws=1).errors
            assert errors is not None
            print(f"{given.model}: {part} error {100 * errors.mean():.2f} %, {time.process_time() - start:.0f} s")


if __name__ == "__main__":
    main()
