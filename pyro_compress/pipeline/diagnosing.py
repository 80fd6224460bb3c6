"""The step `diagnose`: read a run's posterior, say whether to believe it; diagnosis.json and figures/diagnose/*.png."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table

from pyro_compress.analysis.diagnosis.arviz_export import DERIVED, to_arviz
from pyro_compress.analysis.diagnosis.diagnostics import HDI_SHARE, Diagnosis, diagnose
from pyro_compress.analysis.diagnosis.flags import Row
from pyro_compress.analysis.diagnosis.psis import LEAST_RATIOS, guide_log_density, loo
from pyro_compress.data.dataset import DataSet
from pyro_compress.errors import InferenceError, PriorError
from pyro_compress.files import write_atomically
from pyro_compress.inference.loop.feed import Feed
from pyro_compress.inference.results.iid_draws import MOST_BYTES
from pyro_compress.inference.results.pointwise import draws_of_guide, log_joints, log_likelihoods, predictions
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.generative.vae import VAE
from pyro_compress.pipeline.code_diagnosis import flags_of_codes, in_words
from pyro_compress.pipeline.settings import RunSettings
from pyro_compress.pipeline.starting import fitted_network
from pyro_compress.pipeline.steps import RunDirectory, prepare
from pyro_compress.posterior.draws import GUIDE_DENSITY
from pyro_compress.posterior.posterior import Flag, Posterior
from pyro_compress.report.diagnostic_figures import figures_of_diagnosis
from pyro_compress.report.figures import save_all

HELD_OUT = 20
GUIDE_DRAWS = 200
MOST_LOG_LIKELIHOODS = 2**25  # chains × draws × examples
MOST_ROWS = 20
OF_CODES = (
    "codes of single examples are not summed out, so the log joint of the weights is not known: no Pareto k-hat, "
    "and no predictions to compare"
)
NOTHING = "a point estimate has one value per parameter and no draws: there is nothing to diagnose"


@dataclass(frozen=True)
class DiagnosisOptions:
    """Options of `diagnose`.

    Attributes:
        sites: names or patterns of what is exported; None for the default.
        log_likelihood: whether to compute pointwise log-likelihoods, and LOO from them.
        guide_draws: taken from a closed-form guide, fewer where a network is large.
    """

    sites: tuple[str, ...] | None = None
    log_likelihood: bool = False
    guide_draws: int = GUIDE_DRAWS


@dataclass
class _Found:
    """What is gathered on the way for `to_arviz` and for the reader."""

    export: dict[str, Any] = field(default_factory=dict)
    coords: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    log_ratios: np.ndarray | None = None
    flags: list[Flag] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)


def diagnose_run(
    run: RunDirectory,
    settings: RunSettings,
    data: DataSet,
    asked: DiagnosisOptions,
    say: Callable[[str], None] = lambda line: None,
) -> Diagnosis:
    """Write diagnosis.json and the figures; what an earlier call wrote is replaced.

    Raises:
        PyroCompressError: no posterior there, or a pattern that matches nothing.
    """
    prepare(settings)
    posterior = Posterior.load(run.posterior)
    folder = run.figures / "diagnose"
    for old in folder.glob("*.png"):
        old.unlink()
    if posterior.kind == "point":
        diagnosis = Diagnosis("point", 0, 0, (), (), (NOTHING,))
    else:
        diagnosis, drawn = _diagnosed(run, settings, posterior, data, asked, say)
        save_all(folder, drawn)
    write_atomically(run.diagnosis, json.dumps(diagnosis.as_dict(), indent=2, allow_nan=False) + "\n")
    return diagnosis


def _diagnosed(
    run: RunDirectory,
    settings: RunSettings,
    posterior: Posterior,
    data: DataSet,
    asked: DiagnosisOptions,
    say: Callable[[str], None],
) -> tuple[Diagnosis, dict[str, Any]]:
    model = settings.build_model(fitted_network(run, settings, data))
    found, given = _Found(), posterior.draws
    if model.has_local_sites and asked.log_likelihood:
        raise InferenceError("--log-likelihood scores targets given inputs, and an autoencoder has none: leave it out")
    if model.has_local_sites:
        posterior = _drawn_from_guide(model, posterior, asked.guide_draws, settings.seed)
        assert posterior.draws is not None
        posterior = replace(posterior, draws=replace(posterior.draws, statistics={}))
        found.notes.append(OF_CODES)
        if isinstance(model, VAE):
            x = Feed.of(model, data).drawn_once()[0]
            found.flags += flags_of_codes(posterior, model, x, found.statistics)
            found.notes.append(in_words(found.statistics))
    elif given is None:
        posterior = _drawn_from_guide(model, posterior, asked.guide_draws, settings.seed)
        if posterior.has_density:
            posterior = _weighed(model, posterior, data, found, say, taught=settings.teacher is not None)
        else:
            found.notes.append("sites of the guide are gates or point estimates, so there is no Pareto k-hat")
    elif GUIDE_DENSITY in given.statistics:
        posterior = replace(posterior, draws=given.select(0, asked.guide_draws))
        posterior = _weighed(model, posterior, data, found, say, taught=settings.teacher is not None)
    elif posterior.kind != "chains" and given.log_weight is None:
        found.notes.append("the density of what was drawn from is not known, so there is no Pareto k-hat")
    if not model.has_local_sites:
        _held_out(model, posterior, data, found)
    examples = _scored(model, posterior, data, found, say) if asked.log_likelihood else 0
    count = posterior.draws.count if posterior.draws is not None else asked.guide_draws
    idata = to_arviz(posterior, sites=asked.sites, draws=count, seed=settings.seed, coords=found.coords, **found.export)
    diagnosis = diagnose(posterior, idata, log_ratios=found.log_ratios)
    statistics = dict(diagnosis.statistics)
    if asked.log_likelihood:
        statistics["loo"] = asdict(loo(idata))
        if examples < len(data.train_x):
            found.notes.append(f"LOO is over {examples:,} of {len(data.train_x):,} training examples")
    statistics |= found.statistics
    flags = (*diagnosis.flags, *found.flags)
    diagnosis = replace(diagnosis, notes=(*diagnosis.notes, *found.notes), flags=flags, statistics=statistics)
    return diagnosis, figures_of_diagnosis(idata, diagnosis)


def _drawn_from_guide(model: BayesianNetwork, posterior: Posterior, count: int, seed: int) -> Posterior:
    """The posterior with draws of its closed-form guide, and their log density where it has one."""
    width = sum(latent.loc.size for latent in posterior.latents.values())
    width += sum(site.mean.size for site in posterior.parameters.values())
    count = max(LEAST_RATIOS, min(count, MOST_BYTES // (4 * width)))
    draws = draws_of_guide(model, posterior, count, seed)
    if not posterior.has_density:
        return replace(posterior, draws=draws)
    density = guide_log_density(posterior.latents, {name: draws.site(name)[0] for name in posterior.latents})
    return replace(posterior, draws=replace(draws, statistics={GUIDE_DENSITY: density[None]}))


def _weighed(
    model: BayesianNetwork,
    posterior: Posterior,
    data: DataSet,
    found: _Found,
    say: Callable[[str], None],
    *,
    taught: bool,
) -> Posterior:
    """The posterior with the log joint of its guide's draws; notes their log importance ratios."""
    assert posterior.draws is not None
    count, draws = posterior.draws.count, replace(posterior.draws, statistics={})
    if taught:
        found.notes.append("the posterior is given a teacher too, the log joint is of labels: no Pareto k-hat")
        return replace(posterior, draws=draws)
    say(f"log joint of {count} draws of the guide on {len(data.train_x):,} training examples")
    try:
        joints = log_joints(model, posterior, data.train_x, data.train_y, size=data.N)
    except PriorError as error:
        found.notes.append(f"Pareto k-hat cannot be computed: {error}")
        return replace(posterior, draws=draws)
    if count < LEAST_RATIOS:
        found.notes.append(f"Pareto k-hat needs at least {LEAST_RATIOS} draws of the guide, there are {count}")
    else:
        found.log_ratios = joints[0] - posterior.draws.statistics[GUIDE_DENSITY][0]
    outside = int(np.isneginf(joints).sum())
    if outside:
        found.notes.append(f"{outside} of {count} draws of the guide lie where the prior has no density")
    weight = posterior.provenance.get("kl_weight", 1.0)
    if weight != 1.0:
        found.notes.append(f"the fit had KL weight {weight}; Pareto k-hat compares with Bayes' posterior, which has 1")
    lp = np.where(np.isfinite(joints), joints, np.nan)
    return replace(posterior, draws=draws if outside else replace(draws, statistics={"lp": lp}))


def _held_out(model: BayesianNetwork, posterior: Posterior, data: DataSet, found: _Found) -> None:
    """Predictions on a few validation examples, evenly spaced."""
    total = len(data.validation_x)
    if total == 0:
        found.notes.append("there are no validation examples, so no predictions are compared")
        return
    chosen = np.unique(np.linspace(0, total - 1, min(HELD_OUT, total)).round().astype(int))
    predicted = predictions(model, posterior, data.validation_x[torch.from_numpy(chosen)])
    found.export["predictions"] = predicted.reshape(*predicted.shape[:3], -1) if predicted.ndim > 4 else predicted
    found.coords["held_out"] = chosen.tolist()
    if data.classes is not None and predicted.ndim == 4 and predicted.shape[3] == len(data.classes):
        found.coords["class"] = list(data.classes)


def _scored(
    model: BayesianNetwork, posterior: Posterior, data: DataSet, found: _Found, say: Callable[[str], None]
) -> int:
    """Pointwise log-likelihoods of as many training examples as memory allows, evenly spaced; how many."""
    assert posterior.draws is not None
    total, draws = len(data.train_x), posterior.draws.chains * posterior.draws.count
    count = max(1, min(total, MOST_LOG_LIKELIHOODS // draws))
    chosen = torch.linspace(0, total - 1, count, dtype=torch.float64).round().long()
    say(f"log-likelihood of {count:,} training examples under {draws:,} draws")
    scores = log_likelihoods(model, posterior, data.train_x[chosen], data.train_y[chosen])
    found.export["log_likelihood"] = {"y": scores}
    found.export["observed_data"] = {"y": data.train_y[chosen].numpy()}
    found.coords["example"] = chosen.tolist()
    return count


def describe(diagnosis: Diagnosis, most_rows: int = MOST_ROWS) -> list[RenderableType]:
    """What the command prints: a table of the worst quantities, numbers of the sampler, notes and flags."""
    if not diagnosis.rows:
        return list(diagnosis.notes)
    rows = diagnosis.worst(most_rows)
    chains = diagnosis.kind == "chains"
    headline = (
        f"{diagnosis.chains} {'chains' if diagnosis.chains > 1 else 'chain'} of {diagnosis.draws:,} draws"
        if chains
        else f"{diagnosis.draws:,} independent draws"
    )
    if len(rows) < len(diagnosis.rows):
        headline += f", {len(rows)} of {len(diagnosis.rows):,} quantities{', the worst first' if chains else ''}"
    # 80 columns must do: rules and padding of a boxed table would squeeze the names out
    table = Table(title=headline, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("quantity", overflow="fold", min_width=16)
    for heading in ("mean", "sd", f"{100 * HDI_SHARE:.0f} % interval", "MCSE"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("bulk\nESS", "tail\nESS", "R-hat") if chains else ():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, chains))
    parts: list[RenderableType] = [table]
    parts += [line for line in (*_numbers(diagnosis), *diagnosis.notes) if line]
    parts += [f"FLAG {flag.name}: {flag.sentence}" for flag in diagnosis.flags] or ["no flag"]
    return parts


def _cells(row: Row, chains: bool) -> tuple[str, ...]:
    interval = f"{_rounded(row.hdi_low, row.sd)} … {_rounded(row.hdi_high, row.sd)}"
    shared = (row.name, _rounded(row.mean, row.sd), f"{row.sd:.2g}", interval)
    error = "–" if row.mcse is None else f"{row.mcse:.2g}"
    if not chains:
        return (*shared, error)
    whole = ("–" if value is None else f"{value:,.0f}" for value in (row.ess_bulk, row.ess_tail))
    return (*shared, error, *whole, "–" if row.r_hat is None else _r_hat(row.r_hat))


def _r_hat(value: float) -> str:
    """Three decimals where they matter, and none where chains have nothing in common."""
    return f"{value:.3f}" if value < 1.1 else f"{value:.2f}" if value < 100 else "> 100"


def _rounded(value: float, sd: float) -> str:
    """To the second digit of the standard deviation: further digits would only be noise."""
    if not sd > 0:
        return f"{value:.3g}"
    decimals = max(0, 1 - math.floor(math.log10(sd)))
    if decimals <= 5 and abs(value) < 1e7:
        return f"{value:,.{decimals}f}"
    return "0" if abs(value) < 1e-3 * sd else f"{value:.1e}"


def _numbers(diagnosis: Diagnosis) -> list[str]:
    """The sampler's own numbers, a line each."""
    found, lines = diagnosis.statistics, []
    r_hats: dict[str, float] = {}
    for row in diagnosis.rows:
        if row.r_hat is not None:
            r_hats[row.variable] = max(row.r_hat, r_hats.get(row.variable, 0.0))
    if r_hats:
        named: dict[str, float] = {name: r_hats.pop(name) for name in DERIVED if name in r_hats}
        named |= {"all others": max(r_hats.values())} if r_hats else {}
        lines.append("worst R-hat: " + ", ".join(f"{name} {_r_hat(value)}" for name, value in named.items()))
    if "divergences" in found:
        lines.append(f"divergent transitions: {found['divergences']:,}")
    if "acceptance_rate" in found:
        target = found.get("target_acceptance_rate")
        rates = ", ".join(f"{rate:.2f}" for rate in found["acceptance_rate"])
        lines.append(f"acceptance rate by chain: {rates}" + ("" if target is None else f" (target {target:g})"))
    if "e_bfmi" in found:
        lines.append("E-BFMI by chain: " + ", ".join(f"{value:.2f}" for value in found["e_bfmi"]))
    if "effective_draws" in found:
        lines.append(f"effective draws by weight: {found['effective_draws']:,.1f}")
    if "pareto_k" in found:
        shown = f"{found['pareto_k']:.2f}" if math.isfinite(found["pareto_k"]) else "infinite"
        lines.append(f"Pareto k-hat: {shown} (below 0.7 is good)")
    if "loo" in found:
        scores = found["loo"]
        line = f"LOO: elpd {scores['elpd_nats']:,.1f} ± {scores['standard_error_nats']:,.1f} nats"
        line += f" over {scores['examples']:,} examples, effective parameters {scores['effective_parameters']:,.1f}"
        if scores["unreliable"]:
            line += f"; k-hat above 0.7 for {scores['unreliable']:,} examples, so it is not reliable"
        lines.append(line + ("" if scores["waic_nats"] is None else f"; WAIC {scores['waic_nats']:,.1f}"))
    lines.append(f"left out: {found['left_out']}" if found.get("left_out", "nothing") != "nothing" else "")
    return lines
