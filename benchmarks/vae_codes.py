"""Gaussian, logistic-normal and Dirichlet codes of a VAE held against each other: the table of docs/generative.md.

    python -m benchmarks.vae_codes                                  # all rows
    python -m benchmarks.vae_codes gaussian --epochs 2 --examples 100

Statically binarised MNIST, one thread; all have `width` numbers per code, the layers of `vae-mnist`, no prior over
weights, and the same steps.  Numbers of a code on a simplex of 50 are about 0.02, from which a layer that expects
numbers about 1 learns slowly, so every decoder sees (z − m) / s with mean and standard deviation of the prior: this
changes nothing for Gaussian codes, and can be folded into the layer behind it.  A number of the code counts as active
where its mean varies over the examples by more than a hundredth of the prior's variance of it, which for Gaussian codes
is the rule of Burda et al. (2016).
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.models.generative.codes import Codes
from pyro_compress.report.code_figures import component_images, latent_plane

CODES: dict[str, Callable[[int], Codes]] = {
    "gaussian": lambda width: pc.models.GaussianCodes(width),
    "logistic-normal": lambda width: pc.models.LogisticNormalCodes(width),
    "dirichlet": lambda width: pc.models.DirichletCodes(width, concentration=1 - 1 / width),
    "dirichlet, inverse-cdf": lambda width: pc.models.DirichletCodes(
        width, concentration=1 - 1 / width, gradient="inverse-cdf"
    ),
}


class Standardised(nn.Module):
    """(z − m) / s with mean and standard deviation of one number of a code under its prior."""

    def __init__(self, codes: Codes) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            drawn = codes.prior().sample(torch.Size([100_000]))
        gaussian = isinstance(codes, pc.models.GaussianCodes)
        self.mean, self.scale = (0.0, 1.0) if gaussian else (float(drawn.mean()), float(drawn.std(0).mean()))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return (z - self.mean) / self.scale


def network(codes: Codes, plain: bool = False, hidden: int = 200) -> pc.models.EncoderDecoder:
    """784-200-200-outputs and width-200-200-784, tanh, of seed 0; a `plain` decoder sees codes as they are."""
    torch.manual_seed(0)
    first, last = nn.Linear(784, hidden), nn.Linear(hidden, codes.outputs)
    encoder = nn.Sequential(nn.Flatten(), first, nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), last)
    decoder = [nn.Linear(codes.width, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 784)]
    seen = nn.Sequential(nn.Identity() if plain else Standardised(codes), *decoder)
    return pc.models.EncoderDecoder(encoder, seen, codes)


def draw(name: str, model: pc.VAE, values: dict[str, torch.Tensor], folder: Path) -> None:
    """Mean codes of test images in a plane, by class; and what every number of a code draws.

    The middle code is the mean over the test set.  A number is raised to what one image in a hundred exceeds; of codes
    on a simplex the others shrink alike.
    """
    plain = pc.data.load("mnist")
    x, y = plain.binarised("static").test_x, plain.test_y
    with torch.no_grad():
        codes = model.codes.mean(model.encode(values, x))
        middle, raised = codes.mean(0), codes.quantile(0.99, 0)
        one = torch.eye(len(middle))
        simplex = not isinstance(model.codes, pc.models.GaussianCodes)
        rest = (1 - raised[:, None]) * (middle * (1 - one)) / (1 - middle)[:, None] if simplex else middle * (1 - one)
        pictures = model.decode(values, torch.cat([middle[None], rest + raised[:, None] * one])).sigmoid()
    images, titles = pictures.view(-1, 28, 28).numpy(), [f"{number}" for number in range(len(middle))]
    folder.mkdir(parents=True, exist_ok=True)
    plane = latent_plane(codes[:3000].numpy(), y[:3000].numpy(), plain.classes or ())
    plane.savefig(folder / f"vae-{name}-plane.png")
    component_images(images[1:], images[0], titles).savefig(folder / f"vae-{name}-numbers.png")


def row(name: str, given: argparse.Namespace) -> str:
    """Fit and measure one kind of codes."""
    data = pc.data.load("mnist").reconstructing("static")
    codes = CODES[name](given.width)
    model = pc.VAE(network(codes, given.plain, given.hidden), {}, "bernoulli")
    scale = Standardised(codes).scale
    method = pc.inference.SVI(
        epochs=given.epochs,
        batch_size=100,
        learning_rate=given.learning_rate,
        schedule="linear",
        kl_warmup=0.0,
        compile="always",
    )
    start = time.process_time()
    file = given.keep and given.keep / f"{name}.pt"
    if file and file.exists():
        values = torch.load(file, weights_only=True)
    else:
        posterior = pc.fit(model, data, method)
        values = model.values_at(posterior)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(values, file)
    seconds = time.process_time() - start
    if name.startswith("dirichlet"):
        # draws of the inverse distribution function are not q(z | x)'s, and bounds that are taken from them are none
        model = pc.VAE(network(CODES["dirichlet"](given.width), given.plain, given.hidden), {}, "bernoulli")
    if given.figures:
        draw(name, model, values, given.figures)
    part = data.test_x if given.test else data.validation_x
    bound = float(pc.models.elbo(model, values, part).mean())
    found = pc.models.log_likelihood(model, values, part[: given.examples], samples=1000)
    moving = pc.models.code_variances(model, values, part) / scale**2
    error = float(found.std()) / math.sqrt(len(found))
    return (
        f"| {name} | {given.learning_rate:g} | {bound:.2f} | {found.mean():.2f} ± {error:.2f} | "
        f"{int((moving > 0.01).sum())} of {codes.width} | {float(moving.median()):.3f} | {seconds:.0f} |"
    )


def main() -> None:
    """The rows, printed as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codes", nargs="*", help=f"of {', '.join(CODES)}; all if none is named")
    parser.add_argument("--width", type=int, default=50)
    parser.add_argument("--hidden", type=int, default=200, help="units of each hidden layer")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--examples", type=int, default=2000, help="the first so many, for ln p(x)")
    parser.add_argument("--plain", action="store_true", help="let decoders see codes as they are")
    parser.add_argument("--test", action="store_true", help="measure on the test set, not on validation")
    parser.add_argument("--keep", type=Path, help="folder for what was fitted, which is read if it is there")
    parser.add_argument("--figures", type=Path, help="folder for figures of the codes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    # nothing is compressed here, and what stands before the decoder's first layer is not folded into it
    warnings.simplefilter("ignore", pc.errors.UnstorableWarning)
    for name in given.codes or CODES:
        print(row(name, given), flush=True)


if __name__ == "__main__":
    main()
