"""One stage of fine-tuning on the grid, from decision to decision."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.artifact.writing.code_length import CodeLength, code_lengths
from pyro_compress.data.asking import Ask
from pyro_compress.data.dataset import DataSet
from pyro_compress.errors import DecisionError
from pyro_compress.inference.finetuning.code_prices import CodePrices
from pyro_compress.inference.finetuning.grid import GridSite, fine_tune
from pyro_compress.inference.finetuning.learned_quantizers import LearnedQuantizer
from pyro_compress.models.layouts import lay_filters_last
from pyro_compress.models.likelihoods import Likelihood
from pyro_compress.models.narrowing import Narrowed, can_narrow, follows_sizes, narrowed
from pyro_compress.models.precision import SINGLE
from pyro_compress.models.teaching import Teaching
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.liveness import read
from pyro_compress.network.numbers import Numbers
from pyro_compress.network.quantizers import Affine, Codebook, PerChannel, Quantizer, bits_on, stored_as
from pyro_compress.network.unlayered import Unlayered
from pyro_compress.pipeline.kinds import AUTOMATIC, description_of
from pyro_compress.pipeline.time_left import minutes_left
from pyro_compress.pipeline.validation import place, with_batch_norm

# θ; the levels or steps, weights keeping their places; or θ and these
MOVES = ("weights", "quantizer", "both")
# what the length of the code is taken for: the log-uniform prior on the grid, or what the file's coder asks
RATES = ("log-uniform", "code")


def fine_tuned(
    decision: Decision,
    network: nn.Module,
    data: DataSet,
    likelihood: Likelihood,
    *,
    epochs: int,
    rate_weight: float,
    batch_size: int,
    learning_rate: float,
    precision: str = SINGLE,
    averaging: float = 0.0,
    rate: str = RATES[0],
    noise: float,
    teacher: torch.Tensor | Ask | None,
    teaching: Teaching | None = None,
    seed: int,
    moves: str = MOVES[0],
    kind: str = AUTOMATIC,
    say: Callable[[str], None] = lambda line: None,
) -> Decision:
    """One stage of `inference.finetuning.grid.fine_tune`, from decision to decision.

    Where the network allows (`models.narrowing`), the units that are still read are trained as a narrower one, so that
    training costs what is left; nothing is folded, and every number stays one of the original network.  `noise` is in
    posterior sds; the other arguments are those of `fine_tune`.  Frozen parameters stay as the decision has them.
    `moves` says what is trained of weights that have a quantizer, see `MOVES`, and `kind` what file it is for.
    With `rate='code'` the length of the code is what the file's coder asks for it, see `RATES`.
    `say` is told after the first epoch how long the others will take, if they are long.
    """
    about, device = description_of(network, data.input_shape, kind), data.train_x.device
    place(network, decision)
    left = still_read(network, about, decision)
    frozen = {name for name, value in network.named_parameters() if not value.requires_grad}
    moving = {name: site for name, site in decision.sites.items() if name not in frozen}
    sites = {name: _grid_site(name, site, left, noise, moves, device) for name, site in moving.items()}
    if rate != RATES[0]:
        _refuse_levels(moving)
    started = time.monotonic()

    def finished(done: int) -> None:
        if done == 1 and (left := minutes_left((time.monotonic() - started) * (epochs - 1))):
            say(f"training on the grid with rate weight {rate_weight:.3g}: {left}")

    def refitted(theta: Mapping[str, torch.Tensor]) -> dict[str, SiteDecision]:
        replaced = {}
        for name, site in moving.items():
            value = left.put_back(name, theta[name].cpu().numpy(), site.value.shape)
            replaced[name] = _refitted(site, value, _learned(name, site, sites[name], left))
        return replaced

    def asked(theta: Mapping[str, torch.Tensor]) -> dict[str, CodePrices]:
        lengths = code_lengths(about, decision.with_sites(refitted(theta)))
        return {name: _prices(name, length, left, device) for name, length in lengths.items() if name in sites}

    found = fine_tune(
        left.network,
        sites,
        data,
        likelihood,
        epochs=epochs,
        rate_weight=rate_weight,
        batch_size=batch_size,
        learning_rate=learning_rate,
        precision=precision,
        averaging=averaging,
        prices=None if rate == RATES[0] else asked,
        seed=seed,
        teacher=teacher,
        teaching=teaching,
        progress=finished,
    )
    tuned = decision.with_sites(refitted(found), rate_weight=rate_weight, fine_tune_epochs=epochs)
    return with_batch_norm(network, tuned, data, kind, roughly=True)


def still_read(network: nn.Module, about: Architecture | Unlayered, decision: Decision) -> Narrowed:
    """A copy that has the units which kept weights lead from, or all where the network cannot be narrower."""
    left = Narrowed(copy.deepcopy(network), {})
    if isinstance(about, Architecture) and can_narrow(about):
        kept = {name: site.kept().astype(np.float32) for name, site in decision.sites.items()}
        needed = read(about, Numbers(kept, decision.buffers))
        if not all(entries.all() for entries in needed) and follows_sizes(network, about):
            left = narrowed(network, about, needed)
    lay_filters_last(left.network)
    return left


def _refuse_levels(sites: Mapping[str, SiteDecision]) -> None:
    for name, site in sites.items():
        if isinstance(site.quantizer, Codebook):
            raise DecisionError(
                f"fine_tune_rate='code' moves weights to integers that are cheaper, and what is stored of '{name}' are "
                f"levels of a codebook: take fine_tune_rate='{RATES[0]}'"
            )


def _grid_site(
    name: str, site: SiteDecision, left: Narrowed, noise: float, moves: str, device: torch.device
) -> GridSite:
    """Where what is left of a tensor starts, what of it is kept, and its noise."""

    def taken(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(left.take(name, values))).to(device)

    spread = (noise * np.sqrt(site.variance)).astype(np.float32)
    quantizer = site.quantizer
    if quantizer is not None and name in left.index:
        quantizer = quantizer.rows(left.index[name][0])
    value, learned = taken(site.value), None
    if quantizer is not None and value.ndim > 1 and moves != "weights":
        learned = LearnedQuantizer.of(quantizer, value, assigned=moves == "quantizer")
    return GridSite(value, taken(site.kept()), quantizer, taken(spread) if noise > 0 else None, learned)


def _prices(name: str, length: CodeLength, left: Narrowed, device: torch.device) -> CodePrices:
    """Of what is left of a tensor, in nats."""

    def nats(bits: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((math.log(2) * bits).astype(np.float32)).to(device)

    return CodePrices(nats(left.take(name, length.one - length.zero)), nats(length.further))


def _learned(name: str, site: SiteDecision, trained: GridSite, left: Narrowed) -> Quantizer | None:
    """The quantizer after training; channels that are not in the narrower network keep their steps."""
    if trained.learned is None:
        return site.quantizer
    found = trained.learned.quantizer()
    assert site.quantizer is not None
    before, grid = stored_as(site.quantizer), stored_as(found)
    if name not in left.index or not (isinstance(before, PerChannel) and isinstance(grid, PerChannel)):
        return found
    steps = np.array(before.steps)
    steps[left.index[name][0]] = grid.steps
    grid = PerChannel(tuple(steps.tolist()))
    return replace(site.quantizer, grid=grid) if isinstance(site.quantizer, Affine) else grid


def _refitted(site: SiteDecision, value: np.ndarray, quantizer: Quantizer | None) -> SiteDecision:
    """The site with new values: what rounds to zero is pruned, and bits are what the largest integer needs."""
    if quantizer is None:
        return site.moved_to(value)
    integers = quantizer.index(value)
    bits = np.where(site.kept() & (integers != 0), bits_on(quantizer, integers), 0).astype(np.uint8)
    return site.moved_to(value, bits=bits, quantizer=quantizer)
