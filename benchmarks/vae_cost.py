"""What a step of a variational autoencoder costs against the same one as a training loop of torch's, side by side.

    python -m benchmarks.vae_cost                            # two threads, 60 s for all steps together
    python -m benchmarks.vae_cost --threads 1 --clock processor --seconds 30

The network is `vae-mnist`, 784-200-200-100 and 50-200-200-784, under the Bernoulli likelihood.  The loop is what anyone
would write: μ, ln σ² from the encoder, z = μ + σ ε, binary cross-entropy of the logits, the KL in closed form, fused
Adam; as it is and with its loss compiled, of which the faster is the base.  Ours of the same VAE has no prior over
weights (`{}`); with a prior over the decoder's weights it draws what the layers put out as well, which the loop does
not.
"""

import argparse
import platform
from collections.abc import Callable
from datetime import date
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import CLOCKS, Step, Turns, row
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.generative.vae import VAE
from pyro_compress.models.networks import vae_mnist
from pyro_compress.models.priors.log_uniform import LogUniform

SIZE = 55_000
SAME, GOAL = "no prior over weights", "≤ 1.2"


class Loop:
    """The loop without us.

    Args:
        compiled: whether the loss is, with its way back; in the first step.
    """

    def __init__(self, compiled: bool) -> None:
        network = vae_mnist()

        def loss(x: Tensor) -> Tensor:
            mean, log_variance = network.encoder(x).chunk(2, 1)
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            misfit = F.binary_cross_entropy_with_logits(network.decoder(z), x.flatten(1), reduction="sum")
            kl = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum()
            return (misfit + kl) / len(x)

        self._loss: Callable[[Tensor], Tensor] = torch.compile(loss, dynamic=False) if compiled else loss
        self._optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)

    def step(self, x: Tensor) -> float:
        """One step on a batch; its loss."""
        self._optimizer.zero_grad()
        loss = self._loss(x)
        loss.backward()
        self._optimizer.step()
        return loss.item()


def ours(prior: LogUniform | dict[str, str], x: Tensor, compiled: str) -> Step:
    """A step of SVI; recorded where it is not compiled, once it has been run so often."""
    method = SVI(epochs=10_000, batch_size=len(x), compile=compiled, shrink=False)
    state = method.init(VAE(vae_mnist(), prior), SIZE, 0)
    # as long as steps are not yet recorded
    for _ in range(110):
        method.step(state, (x, x.flatten(1)))
    return partial(method.step, state, (x, x.flatten(1)))


def main() -> None:
    """The table, printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all steps together, without compiling")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    x = torch.rand(given.batch_size, 1, 28, 28).round()
    loops = {"loop": Loop(compiled=False), "loop, compiled": Loop(compiled=True)}
    steps: dict[str, Step] = {name: partial(loop.step, x) for name, loop in loops.items()}
    steps |= {
        f"SVI, {SAME}, compiled": ours({}, x, "always"),
        f"SVI, {SAME}, recorded": ours({}, x, "never"),
        "SVI, log-uniform decoder, compiled": ours(LogUniform(), x, "always"),
    }
    turns = Turns.of(steps, given.seconds, given.clock)
    fastest = turns.fastest(loops)
    print("| step | ms | against | ms | ratio | goal |\n| --- | --- | --- | --- | --- | --- |")
    for what, found in turns.against(fastest).items():
        print(row(what, found, fastest, GOAL if SAME in what and "compiled" in what else ""))
    print(
        f"\n{date.today()}, {platform.machine()}, {given.threads} threads, batches of {given.batch_size}, "
        f"{given.clock} time, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
