"""Moments of weight draws within one mode of the posterior: units are aligned, or one chain is taken.

A posterior over a network's weights has a mode for every renaming of its hidden units, and means over several modes
belong to no network.  So chains (or draws, where a chain wanders between renamings) are brought to a common reference
by `alignment.match`; where chains disagree even then, the best of them is taken alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pyro_compress.analysis.modes.alignment import canonical, match, rename_all
from pyro_compress.analysis.modes.symmetries import Arrays, HiddenSpace, hidden_spaces
from pyro_compress.analysis.modes.weight_draws import SCALE, ChainRenamings, WeightDraws
from pyro_compress.errors import InferenceError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.quantizers import PerChannel, stored_as
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior

MOMENTS = ("auto", "aligned", "one-chain")
ALIGN_BY = ("auto", "chain", "draw")
# a chain wanders if matching brings its draws to less than this share of their squared distance from the best one
WANDERS_BELOW = 0.5
PROBES = 20
# chains disagree if R-hat of more than this share of the weights lies above 1.1 after alignment
MOST_DISAGREEING, R_HAT = 0.1, 1.1
# passes over the draws, each with the mean of the one before it as its reference
PASSES = 3


@dataclass(frozen=True, eq=False)
class OneMode:
    """Moments of weight draws within one mode.

    Attributes:
        mean, variance: float64, by the names of `WeightDraws.shapes`.
        best: the draw of highest log joint with its units renamed alike, float64; None if no log joint is known.
        method: what was done, for provenance: 'moments' ('aligned' or 'one-chain'), 'aligned_by' ('chain', 'draw', or
            'nothing' in a network without hidden units), 'chains', 'draws', and what these were chosen by.
    """

    mean: Arrays
    variance: Arrays
    best: Arrays | None
    method: Mapping[str, object]


def candidates(
    posterior: Posterior, draws: Draws, architecture: Architecture, *, moments: str = "auto", align_by: str = "auto"
) -> dict[str, Posterior]:
    """The posterior with moments within one mode, storing the aligned mean ('mean') or the draw of highest log joint
    ('best draw'; left out where no log joint is known).

    Both have the same moments, so the same signal-to-noise ratios.  Groups keep their criterion where w and w̃ of
    w = z·w̃ were drawn and the statistic follows from moments of z; else weights are judged one by one.
    Buffers are those of the given posterior: batch-norm statistics have to be gathered again.

    Args:
        posterior: gives priors, point estimates and provenance.
        draws: with the network's parameter names among the sites, as `posterior.draws` of samplers has them.
        architecture: of the network.
        moments: see `one_mode`.
        align_by: see `one_mode`.
    """
    weights = WeightDraws.of(posterior, draws)
    found = one_mode(weights, architecture, moments=moments, align_by=align_by)
    stored = {"mean": found.mean} | ({} if found.best is None else {"best draw": found.best})
    # of a chain that is −log prior where it stands, and no KL from which a description length would follow
    statistics = {n: v for n, v in posterior.statistics.items() if n != "complexity_nats" or posterior.kind != "chains"}
    made = {}
    for which, values in stored.items():
        parameters = {name: _parameter(name, site, found, values) for name, site in posterior.parameters.items()}
        provenance = {**posterior.provenance, "moments": {**found.method, "stored": which}}
        learned = posterior.hyperparameters
        made[which] = Posterior(
            parameters, {}, posterior.buffers, "iid", provenance, statistics, hyperparameters=learned
        )
    return made


def one_mode(
    weights: WeightDraws,
    architecture: Architecture,
    *,
    moments: str = "auto",
    align_by: str = "auto",
    reference: Arrays | None = None,
) -> OneMode:
    """Align draws and take their weighted moments.

    Args:
        weights: draws with their importance weights and, for the best draw and chain, the statistic 'lp'.
        architecture: of the network.
        moments: 'aligned' takes all chains, 'one-chain' the one of highest mean log joint (the first without 'lp');
            'auto' takes all chains unless they still disagree: R-hat > 1.1 for more than a tenth of the weights.
        align_by: 'chain' renames the units of a whole chain by its mean, 'draw' those of every draw by itself, which
            a chain needs that wanders between renamings, and which draws units without signal towards the reference;
            'auto' takes 'draw' where matching halves the squared distance of draws from the best one of their chain.
        reference: weights by name to align to; without them units get names by what they do alone, so that the
            result depends neither on how a chain names its units nor on the order of chains.

    Raises:
        InferenceError: an unknown word, or draws that are not finite.
    """
    for word, known, what in ((moments, MOMENTS, "moments"), (align_by, ALIGN_BY, "align_by")):
        if word not in known:
            raise InferenceError(f"{what} is one of {', '.join(known)}, found '{word}'")
    # units that a constant of all draws makes or reads have their names from it
    held = weights.constants.keys()
    spaces = tuple(s for s in hidden_spaces(architecture) if not any(slot.name in held for slot in s.slots))
    method: dict[str, object] = {"moments": "aligned"}
    if moments != "one-chain":
        found, per_chain, by = _aligned(weights, spaces, align_by, reference)
        if weights.draws.chains > 1:
            method["disagreeing_weights_percent"] = round(100 * _disagreeing(per_chain), 3)
        if moments == "auto" and _disagreeing(per_chain) > MOST_DISAGREEING:
            moments = "one-chain"
    if moments == "one-chain":
        chain = _best_chain(weights.draws)
        method |= {"moments": "one-chain", "chain": chain}
        weights = weights.select(chain)
        found, per_chain, by = _aligned(weights, spaces, align_by, reference)
    mean, variance = _merged(per_chain)
    method |= {"aligned_by": by if spaces else "nothing", "chains": weights.draws.chains, "draws": weights.draws.count}
    best = _best_draw(weights.draws)
    values = None if best is None else found[best[0]].apply_to_one(weights, best[1], best[0])
    return OneMode(weights.tensors(mean), weights.tensors(variance), values, method)


ChainMoments = tuple[float, np.ndarray, np.ndarray]


def _aligned(
    weights: WeightDraws, spaces: tuple[HiddenSpace, ...], align_by: str, reference: Arrays | None
) -> tuple[list[ChainRenamings], list[ChainMoments], str]:
    """(renamings per chain, moments per chain, 'chain' or 'draw')."""
    if align_by == "auto":
        counting = np.flatnonzero(weights.draws.weights().sum(axis=1) > 0)
        align_by = "draw" if any(_wanders(weights, spaces, int(chain)) for chain in counting) else "chain"
    by_chain = _by_chain if align_by == "chain" else _by_draw
    found = by_chain(weights, spaces, reference)
    return found, [weights.chain_moments(chain, renamings) for chain, renamings in enumerate(found)], align_by


def _by_chain(weights: WeightDraws, spaces: tuple[HiddenSpace, ...], reference: Arrays | None) -> list[ChainRenamings]:
    """One renaming for every chain, by its mean."""
    means = [weights.tensors(weights.chain_moments(chain)[1]) for chain in range(weights.draws.chains)]
    if reference is None:
        reference = _named(spaces, means[_best_chain(weights.draws)])
    return [ChainRenamings(spaces, (match(spaces, reference, mean),)) for mean in means]


def _by_draw(weights: WeightDraws, spaces: tuple[HiddenSpace, ...], reference: Arrays | None) -> list[ChainRenamings]:
    """A renaming for every draw; the reference of a later pass is the aligned mean of the one before it."""
    chains, count = weights.draws.chains, weights.draws.count
    passes = 1 if reference is not None else PASSES
    if reference is None:
        reference = _named(spaces, weights.row(*(_best_draw(weights.draws) or (0, 0))))
    for later in reversed(range(passes)):
        found = [
            ChainRenamings(spaces, tuple(match(spaces, reference, weights.row(chain, d)) for d in range(count)))
            for chain in range(chains)
        ]
        if later:
            moments = [weights.chain_moments(chain, renamings) for chain, renamings in enumerate(found)]
            reference = weights.tensors(_merged(moments)[0])
    return found


def _named(spaces: Sequence[HiddenSpace], weights: Arrays) -> Arrays:
    return rename_all(spaces, canonical(spaces, weights), weights)


def _wanders(weights: WeightDraws, spaces: tuple[HiddenSpace, ...], chain: int) -> bool:
    """Whether matching brings a chain's draws much closer to the best of them."""
    if not spaces:
        return False
    one = weights.select(chain)
    centre = one.row(*(_best_draw(one.draws) or (0, 0)))
    probed = np.unique(np.linspace(0, one.draws.count - 1, PROBES).astype(int))
    rows = [one.row(0, int(draw)) for draw in probed]
    matched = [rename_all(spaces, match(spaces, centre, row), row) for row in rows]
    before, after = (sum(_distance(centre, row) for row in all_rows) for all_rows in (rows, matched))
    return after < WANDERS_BELOW * before


def _distance(left: Arrays, right: Arrays) -> float:
    return float(sum(np.square(array - right[name]).sum() for name, array in left.items()))


def _merged(per_chain: Sequence[ChainMoments]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance over all chains."""
    shares = np.array([weight for weight, _, _ in per_chain])
    shares = shares / shares.sum()
    mean = sum(share * chain_mean for share, (_, chain_mean, _) in zip(shares, per_chain, strict=True))
    variance = sum(
        share * (within + np.square(chain_mean - mean))
        for share, (_, chain_mean, within) in zip(shares, per_chain, strict=True)
    )
    return np.asarray(mean), np.asarray(variance)


def _disagreeing(per_chain: Sequence[ChainMoments]) -> float:
    """Share of the numbers that vary whose R-hat, √(total / within variance), is above 1.1; 0 for one chain."""
    weighted = [moments for moments in per_chain if moments[0] > 0]
    _, total = _merged(weighted)
    shares = np.array([weight for weight, _, _ in weighted])
    within = sum(share * each for share, (_, _, each) in zip(shares / shares.sum(), weighted, strict=True))
    varies = total > 0
    return float((total[varies] > R_HAT**2 * np.asarray(within)[varies]).mean()) if varies.any() else 0.0


def _best_draw(draws: Draws) -> tuple[int, int] | None:
    """(chain, draw) of highest log joint among those that have any weight."""
    lp = draws.statistics.get("lp")
    if lp is None:
        return None
    usable = np.isfinite(lp) & (draws.weights() > 0)
    if not usable.any():
        return None
    chain, draw = np.unravel_index(int(np.where(usable, lp, -np.inf).argmax()), lp.shape)
    return int(chain), int(draw)


def _best_chain(draws: Draws) -> int:
    """The chain of highest weighted mean log joint; the first where it is not known."""
    lp, weights = draws.statistics.get("lp"), draws.weights()
    if lp is None:
        return int(weights.sum(axis=1).argmax())
    shares = weights * np.isfinite(lp)
    sums = (shares * np.where(np.isfinite(lp), lp, 0.0)).sum(axis=1)
    total = shares.sum(axis=1)
    means = np.where(total > 0, sums / np.where(total > 0, total, 1.0), -np.inf)
    return int(means.argmax())


def _parameter(name: str, site: ParameterPosterior, found: OneMode, values: Arrays) -> ParameterPosterior:
    mean, variance = (held[name].astype(site.mean.dtype) for held in (found.mean, found.variance))
    value = None if values is found.mean else values[name].astype(site.mean.dtype)
    # units may have been renamed: what is off is zero in every draw
    off = None if site.off is None else (mean == 0) & (variance == 0)
    # steps of single channels would have to be renamed with them
    by_channel = site.quantizer is not None and isinstance(stored_as(site.quantizer), PerChannel)
    quantizer = None if by_channel else site.quantizer
    made = replace(
        site,
        mean=mean,
        variance=0 * variance if site.is_point else variance,
        value=value,
        groups=None,
        criterion=None,
        statistic=None,
        off=off,
        quantizer=quantizer,
    )
    criterion = site.criterion
    if criterion is None or not criterion.follows_from_moments:
        return made
    if not criterion.per_group:
        return replace(made, criterion=criterion)
    if name + SCALE not in found.mean:
        return made
    assert site.groups is not None
    of_scale = found.mean[name + SCALE], found.variance[name + SCALE]
    scale = np.exp(of_scale[0]) if criterion.of == "log_scale" else of_scale[0]
    groups = replace(site.groups, scale=scale.astype(np.float32))
    statistic = criterion.value(*of_scale).astype(np.float32)
    return replace(made, groups=groups, criterion=criterion, statistic=statistic)
