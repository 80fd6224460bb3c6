"""From a posterior to a decision: prune, choose bit widths on validation, fine-tune on the grid, refine.

Everything is chosen on the validation split of the training data; the test set is never looked at here.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import nn

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.pruning import prune
from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.analysis.decisions.unit_ranking import UNIT_RANKINGS, prune_lowest_units
from pyro_compress.analysis.decisions.units import prune_units
from pyro_compress.data.asking import Ask
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.data.generators import seed_of
from pyro_compress.data.sources import Examples
from pyro_compress.errors import DecisionError, warn
from pyro_compress.inference.finetuning.fisher import diagonal_fisher
from pyro_compress.inference.loop.devices import device_named
from pyro_compress.inference.results.predictive import predictive_mean
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.generative.semi_supervised import SemiSupervisedVAE
from pyro_compress.models.generative.vae import VAE
from pyro_compress.models.likelihoods import Likelihood
from pyro_compress.models.likelihoods.fitted import fitted
from pyro_compress.models.parameters import weights_beside
from pyro_compress.models.teaching import Teaching
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.stored import architecture_left, format_architecture
from pyro_compress.network.unlayered import Unlayered
from pyro_compress.pipeline.acceptance import clearly_worse, within
from pyro_compress.pipeline.decision_settings import DecisionSettings
from pyro_compress.pipeline.decoders import road_of
from pyro_compress.pipeline.draw_moments import how_of, stored_of, within_one_mode
from pyro_compress.pipeline.fine_tuning import fine_tuned
from pyro_compress.pipeline.kinds import WEIGHTS
from pyro_compress.pipeline.quantizing import refuse_beside_own, roundings
from pyro_compress.pipeline.size_targets import smallest_accepted
from pyro_compress.pipeline.stages import fine_tune_stages
from pyro_compress.pipeline.unit_sensitivity import unit_scores
from pyro_compress.pipeline.validation import Judge, network_and_likelihood, nothing_pruned, place
from pyro_compress.posterior.posterior import Posterior

Say = Callable[[str], None]
WARNING = "warning: "
# validation examples: with less, a fit that has learned a little may be no better by chance
FEWEST_TO_TELL = 50
SNR_LADDER = (3.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.0)


def warnings_only(line: str) -> None:
    """What is told where nobody listens: warnings, as Python's."""
    if line.startswith(WARNING):
        warn(line.removeprefix(WARNING))


def decide(
    posterior: Posterior,
    network: nn.Module,
    data: DataSet | Examples,
    settings: DecisionSettings | None = None,
    *,
    likelihood: Likelihood | str | None = None,
    teacher: torch.Tensor | Ask | None = None,
    starts: Mapping[str, nn.Module] | None = None,
    seed: int = 0,
    device: str = "cpu",
    say: Say = warnings_only,
) -> Decision:
    """Prune, choose c on validation, fine-tune in stages, refine: what `pyro-compress analyse` does.

    All of it is held against one reference: the posterior mean, or what the fit started from where that has fewer
    validation errors.  If the mean is worse than a start by more than the standard error of the difference, that is
    said, and noted in the decision as `worse_than_start`.  Of an autoencoder the decoder alone is decided on, at codes
    of the posterior's encoder and in nats of the bound, against the posterior mean (`pipeline.decoders`).

    Args:
        posterior: what inference returned; draws are reduced to moments within one mode first.
        network: a module of the original shape, or the BayesianNetwork that was fitted; not touched.
        data: training part for fine-tuning and batch-norm statistics, validation part for choices; anything that
            `as_data` takes.  A teacher that it comes with counts in fine-tuning as it does for the BayesianNetwork that
            is given; a hint, a plain network and a `teacher` in place of the targets leave it out.
        settings: see `DecisionSettings`; its defaults if not given.
        likelihood: p(y | output), or its name; that of a BayesianNetwork, else categorical, if not given.
        teacher: posterior predictive mean of every training example, or what gives it of a batch, to fine-tune by in
            place of the targets; made of `settings.teacher_draws` draws if not given.
        starts: networks that the fit began with, by what people call them; `network` as it is if not given.
        seed: of the fine-tuning's batches, and of the teacher's draws.
        device: 'cpu', 'cuda' or 'mps', where it runs.
        say: told one line per choice; by default warnings alone are said, as Python's.

    Raises:
        DataError: there are no validation examples.
        DecisionError: the settings ask for a teacher's draws and `network` is no BayesianNetwork, or for a quantizer
            where the posterior says what may be stored.
    """
    settings, data = settings or DecisionSettings(), as_data(data).on(device_named(device))
    _refuse_unlabelled(network, data)
    refuse_beside_own(posterior, settings.quantizer)
    if isinstance(network, EncoderDecoder | VAE):
        settings = settings.in_nats()
    if teacher is None:
        teacher = teacher_of(posterior, network, data, settings, seed)
    teaching = network.teaching if isinstance(network, BayesianNetwork) and network.teaching.hint is None else None
    network, likelihood = network_and_likelihood(network, likelihood)
    likelihood = fitted(likelihood, posterior)
    if isinstance(network, EncoderDecoder):
        starts = {}
        say("errors are −ln p(x | z) in nats at codes z that the encoder drew once: what they rise by, the bound loses")
    road = road_of(network, posterior, data, likelihood)
    posterior, network, data, likelihood = road.posterior, road.network, road.data, road.likelihood
    posterior = without_draws(posterior, network, data, likelihood, settings, say=say)
    judge = Judge(network, data, likelihood, settings.kind)
    reference, noted = _reference(posterior, judge, {"network given": network} if starts is None else starts, say)
    pruned = _choose_cut(posterior, judge, data, settings, reference, say)
    kept, total = pruned.weights_left()
    say(f"pruned to {100 * kept / total:.2f} % of the weights: {judge.text(judge.errors(pruned))}")
    decision = _rounded(posterior, pruned, judge, data, settings, seed, say)
    if settings.fine_tune_epochs:
        tune = _tuning(judge, settings, teacher, teaching, seed, say)
        decision = fine_tune_stages(decision, judge, tune, settings, reference, say)
    tolerance = settings.stage_tolerance_points if settings.fine_tune_epochs else settings.tolerance_points
    if settings.refine:
        decision = _refined(decision, judge, data, settings, reference, seed, say)
    decision = judge.finished(decision)
    evidence = judge.evidence(decision, reference)
    evidence["within_tolerance"] = within(evidence["rise_points"], tolerance)
    if not evidence["within_tolerance"]:
        rise = evidence["rise_points"]
        unit = judge.unit
        allowed = f"{unit.from_points(tolerance):g} {unit.rise_sign}"
        say(f"nothing was within the tolerance of {allowed}: the best is {unit.rise(rise)}")
    if isinstance(judge.described(), Unlayered):
        noted["kind"] = WEIGHTS
    return decision.with_sites({}, **how_of(posterior), **noted, validation=evidence)


def _refuse_unlabelled(network: nn.Module, data: DataSet) -> None:
    if isinstance(network, SemiSupervisedVAE):
        raise DecisionError(
            "a SemiSupervisedVAE's classifier is a network of its own: fit pc.BayesianNetwork(classifier, prior) to "
            "data.labelled(), or to what this model predicts, and decide on that"
        )
    if data.partly_labelled:
        raise DecisionError(f"{data.name}: labels are missing, and the road to a file needs all: give data.labelled()")


def _tuning(
    judge: Judge,
    settings: DecisionSettings,
    teacher: torch.Tensor | Ask | None,
    teaching: Teaching | None,
    seed: int,
    say: Say,
) -> Callable[..., Decision]:
    """A stage of fine-tuning as a function of the decision and the rate weight."""
    return partial(
        fine_tuned,
        network=judge.network,
        data=judge.data,
        likelihood=judge.likelihood,
        epochs=settings.fine_tune_epochs,
        batch_size=settings.fine_tune_batch_size,
        learning_rate=settings.fine_tune_learning_rate,
        precision=settings.fine_tune_precision,
        averaging=settings.fine_tune_averaging,
        rate=settings.fine_tune_rate,
        noise=settings.fine_tune_noise,
        teacher=teacher,
        teaching=teaching,
        seed=seed,
        moves=settings.fine_tune_moves,
        kind=settings.kind,
        say=say,
    )


def teacher_of(
    posterior: Posterior, network: nn.Module, data: DataSet, settings: DecisionSettings, seed: int
) -> torch.Tensor | Ask | None:
    """Posterior predictive mean of every training example, over the draws that the settings ask for; None for none.

    Where these are others in every batch, what gives it of a batch, over as many draws made for that one.

    Raises:
        DecisionError: they ask for some, and `network` is not the BayesianNetwork whose priors make weights of draws.
    """
    if not settings.teacher_draws:
        return None
    if not isinstance(network, BayesianNetwork):
        raise DecisionError(
            f"teacher_draws={settings.teacher_draws} draws networks from the posterior, which takes its priors: give "
            f"decide(...) the BayesianNetwork that was fitted in place of the {type(network).__name__}"
        )
    model = copy.deepcopy(network).to(data.train_x.device)
    if not data.drawn_anew:
        return predictive_mean(model, posterior, data.train_x, draws=settings.teacher_draws, seed=seed)

    def ask(x: torch.Tensor, *stream: int) -> torch.Tensor:
        return predictive_mean(model, posterior, x, draws=settings.teacher_draws, seed=seed_of(seed, *stream))

    return ask


def _reference(
    posterior: Posterior, judge: Judge, starts: Mapping[str, nn.Module], say: Say
) -> tuple[np.ndarray, dict[str, object]]:
    """Validation errors of the best of the posterior mean and the starts, and what to note about them."""
    errors = judge.errors(nothing_pruned(posterior))
    fitted = stored_of(posterior)
    say(f"{fitted}, nothing pruned: {judge.text(errors)} validation error")
    known = {fitted: errors} | {name: judge.errors_of(start) for name, start in starts.items()}
    best = min(known, key=lambda name: float(known[name].sum()))
    noted: dict[str, object] = _no_better_than_one_answer(posterior, judge, errors, say) | {
        "reference": best,
        judge.unit.key("reference_error"): judge.unit.scale * float(known[best].mean()),
    }
    if best != fitted:
        rise, standard_error = judge.rise_of(errors, known[best])
        say(f"held against the {best}, which has {judge.text(known[best])}")
        if clearly_worse(errors, known[best], targets=judge.targets):
            worse = judge.unit.rise(rise, standard_error).removeprefix("+")
            noted["worse_than_start"] = (
                f"the fit ended {worse} worse on validation than the {best} that it "
                f"started from ({judge.text(errors)} against {judge.text(known[best])})"
            )
            say(f"{WARNING}{noted['worse_than_start']}: fit longer, or with a smaller KL weight or rate")
    return known[best], noted


def _no_better_than_one_answer(posterior: Posterior, judge: Judge, errors: np.ndarray, say: Say) -> dict[str, object]:
    """What to note, and say, where the posterior mean does not tell inputs apart: nothing would cost it anything."""
    if len(errors) < FEWEST_TO_TELL:
        return {}
    alone = judge.errors_of_one_answer(nothing_pruned(posterior))
    # a thousandth of the answers, or of the targets' variance
    if not alone.any() or judge.rise_of(errors, alone)[0] <= -0.1:
        return {}
    sentence = (
        f"on validation the {stored_of(posterior)} does no better than the same answer to every input "
        f"({judge.text(errors)} against {judge.text(alone)})"
    )
    say(f"{WARNING}{sentence}: fit longer, to more examples, or with a smaller KL weight")
    return {"no_better_than_one_answer": sentence}


def without_draws(
    posterior: Posterior,
    network: nn.Module,
    data: DataSet,
    likelihood: Likelihood,
    settings: DecisionSettings,
    *,
    say: Say = lambda line: None,
) -> Posterior:
    """Moments within one mode in place of draws, as the settings say; a posterior without draws as it is."""
    if posterior.draws is None:
        return posterior
    return within_one_mode(
        posterior,
        Judge(network, data, likelihood, settings.kind),
        data,
        moments=settings.moments,
        align_by=settings.align_by,
        stored=settings.stored,
        say=say,
    )


def _choose_units(
    posterior: Posterior, judge: Judge, data: DataSet, settings: DecisionSettings, reference: np.ndarray, say: Say
) -> tuple[Decision | None, np.ndarray]:
    """Which units stay, for their share of the multiply-adds or their rank; and the errors of their posterior mean.

    None for all units.
    """
    if settings.multiply_adds is None and settings.remove_units_percent is None:
        return None, reference
    architecture = judge.described()
    settings.check_units(architecture)
    assert isinstance(architecture, Architecture)
    if settings.multiply_adds is not None:
        units = prune_units(posterior, architecture, multiply_adds=settings.multiply_adds)
        why = f"for {100 * settings.multiply_adds:g} % of the multiply-adds"
    else:
        assert settings.remove_units_percent is not None
        by = settings.rank_units_by or UNIT_RANKINGS[0]
        scores = unit_scores(posterior, judge.network, data, by=by)
        units = prune_lowest_units(posterior, architecture, scores, remove_percent=settings.remove_units_percent)
        units, why = units.with_sites({}, units_ranked_by=by), f"of the units that rank highest by {by}"
    narrow = judge.completed(nothing_pruned(posterior) & units)
    errors = judge.errors(narrow)
    sizes = format_architecture(architecture_left(remove_dead(architecture, narrow)))
    say(f"{sizes} {why}: {judge.text(errors)}")
    return units, errors


def _choose_cut(
    posterior: Posterior, judge: Judge, data: DataSet, settings: DecisionSettings, reference: np.ndarray, say: Say
) -> Decision:
    """The cuts that were given, or the largest SNR cut of a ladder that stays within the tolerance.

    Priors that judge single weights, such as the log-uniform by log α, need no such ladder.
    """
    units, reference = _choose_units(posterior, judge, data, settings, reference, say)
    given = settings.log_alpha, settings.snr, settings.remove_percent
    uncut = any(not (site.is_point or site.judges_weights) for site in posterior.parameters.values())
    candidates = SNR_LADDER if given == (None, None, None) and uncut else (settings.snr,)
    for snr in candidates:
        pruned = prune(
            posterior,
            group_threshold=settings.group_threshold,
            log_alpha=settings.log_alpha,
            snr=snr,
            remove_percent=settings.remove_percent,
            by=settings.remove_by,
            over=settings.remove_over,
        )
        pruned = judge.completed(pruned if units is None else units & pruned)
        if judge.accepts(pruned, reference, settings.tolerance_points):
            break
    return pruned


def _rounded(
    posterior: Posterior,
    pruned: Decision,
    judge: Judge,
    data: DataSet,
    settings: DecisionSettings,
    seed: int,
    say: Say,
) -> Decision:
    """The first of the roundings, from coarse to fine, that stays within the tolerance, or the last there is."""
    reference = judge.errors(pruned)
    for how, rounded in roundings(
        posterior,
        pruned,
        settings.quantizer,
        c=settings.c,
        levels=settings.levels,
        level_start=settings.level_start,
        range_by=settings.range_by,
        seed=seed,
        beside=weights_beside(judge.network),
    ):
        decision = judge.completed(rounded)
        rise, standard_error = judge.rise(decision, reference)
        said = f"rounding {how} changes the error by {judge.unit.rise(rise, standard_error)}"
        if within(rise, settings.tolerance_points):
            break
        said += ", more than the tolerance: no finer grid was tried"
    say(said)
    return decision.with_sites({}, rounding_rise_points=rise)


def _refined(
    decision: Decision,
    judge: Judge,
    data: DataSet,
    settings: DecisionSettings,
    reference: np.ndarray,
    seed: int,
    say: Say,
) -> Decision:
    """The smallest file that refinement gives with no more errors on validation than the decision has.

    What is left of the tolerance is not spent: the largest of many prices that pass passes by luck, too.
    """
    curvature = None
    if settings.refine_by == "fisher":
        place(judge.network, decision)
        found = diagonal_fisher(judge.network, data.train_x, judge.likelihood, data.N, seed=seed)
        curvature = {name: value.cpu().numpy() for name, value in found.items()}
    elif not any(site.variance.any() for site in decision.sites.values()):
        say("not refined: no weight has a variance within which it may move")
        return decision
    allowed = judge.rise(decision, reference)[0]
    decision = smallest_accepted(
        judge.described(),
        decision,
        lambda candidate: judge.accepts(candidate, reference, allowed),
        complete=judge.completed,
        curvature=curvature,
        say=say,
    )
    kept, total = decision.weights_left()
    rise, standard_error = judge.rise(decision, reference)
    say(f"refined to {100 * kept / total:.2f} % of the weights, error {judge.unit.rise(rise, standard_error)}")
    return decision
