"""Log-likelihoods of binarised MNIST under `vae-mnist` without a prior over weights: a row of docs/generative.md.

    python -m benchmarks.vae_likelihood dynamic
    python -m benchmarks.vae_likelihood static --epochs 400 --code-samples 5 --samples 5000 --examples 10000

Figures of one kind of binarisation do not compare with those of the other.
"""

import argparse
import math
import time
from pathlib import Path

import torch

import pyro_compress as pc
from pyro_compress.data.binarisation import KINDS


def main() -> None:
    """The row, printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binarisation", choices=KINDS)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--code-samples", type=int, default=1, help="K while training")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--kl-warmup", type=float, default=0.0, help="share of the epochs in which beta rises from 0")
    parser.add_argument("--checkpoint", type=Path, help="where an interrupted fit goes on from")
    parser.add_argument("--validate", action="store_true", help="to choose settings by: leave the test set alone")
    parser.add_argument("--samples", type=int, default=1000, help="K of the estimate of ln p(x)")
    parser.add_argument("--examples", type=int, default=2000, help="of the test set, the first so many, for that")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = pc.data.load("mnist").reconstructing(given.binarisation)
    torch.manual_seed(0)
    model = pc.VAE(pc.models.vae_mnist(), {}, "bernoulli")
    method = pc.inference.SVI(
        epochs=given.epochs,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        schedule="linear",
        kl_warmup=given.kl_warmup,
        compile="always",
        code_samples=given.code_samples,
    )
    start = time.process_time()
    posterior = pc.fit(model, data, method, checkpoint=given.checkpoint, resume=given.checkpoint is not None)
    seconds = time.process_time() - start
    values = model.values_at(posterior)
    print(f"{len(data.train_x):,} examples to learn from; measured on {'validation' if given.validate else 'test'}")
    x = data.validation_x if given.validate else data.test_x
    bound = pc.models.elbo(model, values, x).mean()
    found = pc.models.log_likelihood(model, values, x[: given.examples], samples=given.samples)
    active = int(pc.models.active_units(model, values, x).sum())
    print(
        f"| {given.binarisation} | {given.epochs} | {given.code_samples} | {bound:.2f} | {found.mean():.2f} ± "
        f"{found.std() / math.sqrt(len(found)):.2f} | {active} of {model.codes.width} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main()
