"""What each of two processes does for test_ranks.py: `python -m tests.inference.on_two_ranks FOLDER` under torchrun's
variables; every rank writes what it found to rankR.json, and the last scenario ends one of them.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.generators import generator_for
from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import State
from pyro_compress.inference.finetuning.grid import GridSite, fine_tune
from pyro_compress.inference.fit import EpochRecord, fit
from pyro_compress.inference.gradient.elbo import ElboTerms
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.loop.processes import Ranks, joined
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.speed.compiling import Function
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.variational import recorded_step
from pyro_compress.inference.variational.state import VariationalState
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.normal import Normal
from pyro_compress.network.quantizers import Uniform
from pyro_compress.posterior.posterior import Posterior

# 46 examples in batches of 15: shares of 8 and 7, and a last batch of 16, since one example is no batch of its own
EXAMPLES, SEED = 46, 5
SHORT = SVI(epochs=3, batch_size=15, kl_warmup=0.0)
# of batches that do not divide by two, and one that one rank has alone
BATCH_SIZES = (15, 8, 1)


def data_set() -> DataSet:
    """Three classes of five numbers."""
    x = torch.randn(EXAMPLES + 21, 5, generator=torch.Generator().manual_seed(3))
    y = x[:, :3].argmax(1)
    train, held = (x[:EXAMPLES], y[:EXAMPLES]), (x[EXAMPLES:], y[EXAMPLES:])
    return DataSet("three", *train, *held, *held, classes=("a", "b", "c"))


def network(*, norm: bool = False) -> nn.Module:
    """5-7-3, with batch norm or without."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        between = [nn.BatchNorm1d(7)] if norm else []
        return nn.Sequential(nn.Linear(5, 7), *between, nn.ReLU(), nn.Linear(7, 3))


def model(*, norm: bool = False) -> BayesianNetwork:
    """With a group horseshoe, whose complexity is neither zero nor the same for all parameters."""
    return BayesianNetwork(network(norm=norm), GroupHorseshoe(tau=0.1), Categorical())


# local reparameterization keeps a least standard deviation, weights that are drawn need none
EXACT = replace(SHORT, estimator="shared")


def quiet_state() -> VariationalState:
    """A state whose guide has next to no variance: no noise enters its gradients."""
    torch.manual_seed(SEED)
    state = EXACT.init(model(), data_set().N, SEED)
    with torch.no_grad():
        for name, parameter in state.guide.named_parameters():
            if name.startswith("log_variance"):
                parameter.fill_(-50.0)
    return state


def gradient(ranks: Ranks, examples: int) -> list[float]:
    """Of the objective on the first examples, averaged over the ranks; flat."""
    data, state = data_set(), quiet_state()
    chosen = ranks.share_of(torch.arange(examples))
    terms = EXACT.terms(state, (data.train_x[chosen], data.train_y[chosen]))
    EXACT.descend(state, terms.objective(0.7) / data.N, terms.by_site)
    state.collect_gradients()
    ranks.average(state.moved())
    found = torch.cat([one.grad.flatten() for one in state.moved() if one.grad is not None])
    return [float(number) for number in found]


def means(posterior: Posterior) -> dict[str, Any]:
    """Of every parameter and buffer, as JSON takes them."""
    arrays = {name: site.mean for name, site in posterior.parameters.items()} | dict(posterior.buffers)
    return {name: array.tolist() for name, array in arrays.items()}


def history_of(posterior: Posterior) -> list[dict[str, Any]]:
    """Of its rounds."""
    found: Any = posterior.provenance["history"]
    return list(found)


def fitted(folder: Path | None = None, **more: Any) -> dict[str, Any]:
    """A whole fit: what it ended with, and what this rank was told; with a folder a checkpoint of each epoch stays."""
    told: list[int] = []

    def callback(record: EpochRecord, state: State) -> None:
        told.append(record.epoch)
        if folder is not None:
            shutil.copy(folder / "checkpoint.pt", folder / f"after{record.epoch}.pt")

    where: dict[str, Any] = {} if folder is None else {"checkpoint": folder / "checkpoint.pt"}
    posterior = fit(model(), data_set(), SHORT, seed=SEED, callbacks=[callback], **where, **more)
    history = [{**record, "seconds": 0.0} for record in history_of(posterior)]
    return {"means": means(posterior), "history": history, "told": told}


def compiled() -> dict[str, Any]:
    """The fit with steps that are compiled, by a compiler that gives graphs back as they are; and how many it saw."""
    seen: list[Function] = []

    def compiler(graph: Function, examples: tuple[torch.Tensor, ...]) -> Function:
        seen.append(graph)
        return graph

    with mock.patch.object(recorded_step, "compiled", compiler):
        posterior = fit(model(), data_set(), replace(SHORT, compile="always"), seed=SEED)
    return {"means": means(posterior), "compiled": len(seen)}


class Breaks(SVI):
    """Meets a loss that is not finite, on the last rank alone."""

    def terms(self, state: VariationalState, batch: Batch) -> ElboTerms:
        """As for SVI, but for the third step."""
        found = super().terms(state, batch)
        broken = state.steps_done == 2 and state.ranks.rank == 1
        return replace(found, data=found.data * float("inf")) if broken else found


class Ends(Breaks):
    """Its last rank ends without a word."""

    def terms(self, state: VariationalState, batch: Batch) -> ElboTerms:
        """As for SVI, in the first two epochs."""
        if state.steps_done == 7 and state.ranks.rank == 1:
            os._exit(7)
        return SVI.terms(self, state, batch)


def on_the_grid() -> dict[str, Any]:
    """Fine-tuning with noise on the weights."""
    tuned, generator = network(), generator_for(4)
    sites = {
        name: GridSite(
            parameter.detach().clone(),
            torch.rand(parameter.shape, generator=generator) < 0.8,
            Uniform(0.125),
            torch.full(parameter.shape, 0.01),
        )
        for name, parameter in tuned.named_parameters()
    }
    found = fine_tune(tuned, sites, data_set(), Categorical(), epochs=2, rate_weight=0.5, batch_size=15, seed=SEED)
    return {name: value.tolist() for name, value in found.items()}


def sentence_of(method: Any, **more: Any) -> str:
    """What a fit that cannot end is refused with."""
    try:
        fit(model(), data_set(), method, seed=SEED, **more)
    except InferenceError as error:
        return str(error)
    return ""


def drifted(ranks: Ranks) -> str:
    """What is said where parameters differ in their last bit."""
    one = torch.ones(3)
    ranks.refuse_unequal([one], "epoch 0")
    if not ranks.first:
        one[1] += 2**-23
    try:
        ranks.refuse_unequal([one], "epoch 0")
    except InferenceError as error:
        return str(error)
    return ""


def scenarios(ranks: Ranks, folder: Path) -> Iterator[tuple[str, Any]]:
    """Name and findings, one after another, alike on all ranks."""
    for examples in BATCH_SIZES:
        yield f"gradient of {examples}", gradient(ranks, examples)
    yield "fit", fitted(folder)
    yield "compiled", compiled()
    yield "resumed", fitted(checkpoint=folder / "after0.pt", resume=True)
    yield "resumed by more", fitted(checkpoint=folder / "alone.pt", resume=True)
    with_norm = fit(model(norm=True), data_set(), replace(SHORT, batch_size=23), seed=SEED)
    yield "batch norm", means(with_norm)
    point = BayesianNetwork(network(), Normal(), Categorical())
    yield "map", means(fit(point, data_set(), MAP(epochs=2, batch_size=15), seed=SEED))
    yield "grid", on_the_grid()
    yield "sampler", sentence_of(SGLD())
    yield "not finite", sentence_of(Breaks(epochs=3, batch_size=15))
    yield "drifted", drifted(ranks)
    yield "ended", sentence_of(Ends(epochs=3, batch_size=15), checkpoint=folder / "ended.pt")


if __name__ == "__main__":
    where = Path(sys.argv[1])
    torch.set_num_threads(1)
    with joined(timeout_seconds=60) as here:
        out: dict[str, Any] = {}
        for name, made in scenarios(here, where):
            out[name] = made
            (where / f"rank{here.rank}.json").write_text(json.dumps(out))
