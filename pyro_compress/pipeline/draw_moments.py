"""From a sampler's draws to the moments that a decision needs; what to store is chosen on validation."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pyro_compress.analysis.modes.moments import candidates
from pyro_compress.data.dataset import DataSet
from pyro_compress.errors import DecisionError
from pyro_compress.network.architecture import Architecture
from pyro_compress.pipeline.validation import Judge, nothing_pruned, with_batch_norm
from pyro_compress.posterior.posterior import Posterior

# names of `candidates` by the words of the settings
STORED = {"auto": None, "mean": "mean", "best-draw": "best draw"}


def within_one_mode(
    posterior: Posterior,
    judge: Judge,
    data: DataSet,
    *,
    moments: str = "auto",
    align_by: str = "auto",
    stored: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> Posterior:
    """Moments of draws within one mode, with the values to store and, where there is batch norm, its statistics.

    Args:
        posterior: with draws of the network's parameters.
        judge: compares on validation; on a tie the mean is taken.
        data: training part for batch-norm statistics.
        moments, align_by: see `analysis.modes.moments.one_mode`.
        stored: 'mean', 'best-draw' (the draw of highest log joint), or 'auto', the one with fewer validation errors.
        say: told one line per choice.

    Raises:
        DecisionError: the best draw is asked for and no log joint is known.
    """
    assert posterior.draws is not None
    about = judge.described()
    # of a network that has no layers nobody knows which units may be renamed
    architecture = about if isinstance(about, Architecture) else Architecture(data.input_shape, ())
    found = candidates(posterior, posterior.draws, architecture, moments=moments, align_by=align_by)
    say(_described(how_of(next(iter(found.values())))))
    wanted = STORED[stored]
    if wanted is not None and wanted not in found:
        raise DecisionError("the sampler noted no log joint, so no draw is the best one: store the mean")
    found = {name: made for name, made in found.items() if wanted in (None, name)}
    found = {name: _with_statistics(made, judge, data) for name, made in found.items()}
    if len(found) == 1:
        return next(iter(found.values()))
    errors = {name: float(judge.errors(nothing_pruned(made)).mean()) for name, made in found.items()}
    chosen = min(found, key=lambda name: errors[name])
    listed = ", ".join(f"{name} {error:.4g}" for name, error in errors.items())
    say(f"validation error per example: {listed}; stored is the {chosen}")
    return found[chosen]


def how_of(posterior: Posterior) -> dict[str, object]:
    """What provenance says of moments within one mode, for a decision; nothing without draws."""
    how = posterior.provenance.get("moments")
    if not isinstance(how, dict):
        return {}
    kept = {name: how[name] for name in ("moments", "chain", "aligned_by", "stored") if name in how}
    return kept


def stored_of(posterior: Posterior) -> str:
    """'posterior mean', or what else is stored, for people."""
    return f"posterior {how_of(posterior).get('stored', 'mean')}"


def _described(how: dict[str, object]) -> str:
    chains = f"chain {how['chain']} alone" if "chain" in how else "all chains"
    return f"moments of draws: {chains}, units aligned by {how['aligned_by']}"


def _with_statistics(posterior: Posterior, judge: Judge, data: DataSet) -> Posterior:
    """Batch-norm statistics belong to units, which have been renamed: they are gathered again."""
    if not posterior.buffers:
        return posterior
    decision = with_batch_norm(judge.network, nothing_pruned(posterior), data)
    buffers = dict(posterior.buffers) | {name: np.asarray(buffer) for name, buffer in decision.buffers.items()}
    return replace(posterior, buffers=buffers)
