"""What every inference method returns, in numpy: moments of every parameter, draws where there are any.

A posterior is all that the analysis may look at, so it carries what decisions need (moments of w = z·w̃, the
statistic that says which groups are off) and where it came from, and nothing of the model's code.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from pyro_compress.errors import InferenceError
from pyro_compress.files import write_atomically
from pyro_compress.network.quantizers import Quantizer, described, from_described
from pyro_compress.posterior.criterion import Criterion, log_alpha
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.families import FAMILIES

KINDS = ("chains", "iid", "guide", "point")
# what stands in place of a prior's name where there is no variance: learned as one value, or never moved
POINT, FROZEN = "point", "frozen"


@dataclass(frozen=True)
class Flag:
    """Something that speaks against believing a posterior: a name for programs and a sentence for people."""

    name: str
    sentence: str


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups that a prior ties.

    Attributes:
        axis: axis of the parameter along which groups are counted.
        scale: float32, (groups,): |E z|, or exp E[ln z] where the criterion is taken of ln z; None without a scale.
        unscaled: name of the site of w̃ in w = z·w̃; None without one.
    """

    axis: int
    scale: np.ndarray | None = None
    unscaled: str | None = None

    def shrinkage(self) -> np.ndarray:
        """Shrinkage κ = 1 / (1 + z²), (groups,): 1 is switched off (Carvalho et al. 2010)."""
        assert self.scale is not None
        return 1.0 / (1.0 + self.scale.astype(np.float64) ** 2)


@dataclass(frozen=True, eq=False)
class ParameterPosterior:
    """Marginal moments of one parameter tensor of shape S.

    Attributes:
        mean: float32, or float64 where draws are, S.
        variance: likewise, S; zero for a point estimate.
        prior: name of the prior's class; 'point' for one value, 'frozen' for one that is not to change.
        groups: for group priors.
        value: likewise, S; what to store where that is not the mean, such as the best draw.
        criterion: by what the prior says that weights or groups are off; None for priors that don't.
        statistic: float32, the criterion's statistic: (groups,), or S; None where it follows from mean and variance.
        off: boolean, S: weights that the method itself has taken out, whatever a criterion says; None for none.
        quantizer: the values that may be stored, such as a codebook that the method learned; None leaves that to the
            decision.
        ratio_ranks: whether |mean| / sd tells weights apart; not so where the method's noise is the same multiple of
            every weight.
    """

    mean: np.ndarray
    variance: np.ndarray
    prior: str
    groups: Groups | None = None
    value: np.ndarray | None = None
    criterion: Criterion | None = None
    statistic: np.ndarray | None = None
    off: np.ndarray | None = None
    quantizer: Quantizer | None = None
    ratio_ranks: bool = True

    @staticmethod
    def point(value: np.ndarray, *, frozen: bool = False) -> "ParameterPosterior":
        """One value without a variance."""
        return ParameterPosterior(value, 0 * value, FROZEN if frozen else POINT)

    @property
    def to_store(self) -> np.ndarray:
        """S: the numbers that a decision stores, the mean unless a value is given."""
        return self.mean if self.value is None else self.value

    @property
    def is_point(self) -> bool:
        """Whether the method gave no uncertainty for it."""
        return self.prior in (POINT, FROZEN)

    @property
    def is_frozen(self) -> bool:
        """Whether it stays as it is, so that nothing prunes or rounds it unless told to."""
        return self.prior == FROZEN

    @property
    def has_ratio(self) -> bool:
        """Whether |mean| / sd says which of its weights matter less."""
        return self.ratio_ranks and not self.is_point

    @property
    def judges_weights(self) -> bool:
        """Whether the prior says of every single weight whether it is off."""
        return self.criterion is not None and not self.criterion.per_group

    def log_alpha(self) -> np.ndarray:
        """float64, S: dropout rate log α = log Var w − log (E w)²; −∞ without a variance, ∞ around a mean of zero."""
        return log_alpha(self.mean, self.variance)

    def kept(self, group_threshold: float | None = None, log_alpha_threshold: float | None = None) -> np.ndarray:
        """Boolean, S: weights that are on, by method and prior, and whose own log α is not above a threshold.

        Args:
            group_threshold: cut on the statistic of groups; the prior's own if not given.
            log_alpha_threshold: cut on log α per weight, in place of what the prior says of single weights; none if
                not given.
        """
        keep = self.kept_by_method()
        if self.criterion is not None and self.criterion.per_group:
            keep &= self.on(group_threshold)
        elif log_alpha_threshold is None:
            keep &= self.on()
        if log_alpha_threshold is not None and not self.is_point:
            keep &= self.log_alpha() <= log_alpha_threshold
        return keep

    def kept_by_method(self) -> np.ndarray:
        """Boolean, S: what the method has not taken out."""
        return np.ones(self.mean.shape, dtype=bool) if self.off is None else ~self.off

    def on(self, threshold: float | None = None) -> np.ndarray:
        """Boolean, S: what is on by the prior's criterion at a threshold, the prior's own if not given."""
        if self.criterion is None:
            return np.ones(self.mean.shape, dtype=bool)
        statistic = self.criterion.value(self.mean, self.variance) if self.statistic is None else self.statistic
        found = self.criterion.is_on(statistic, threshold)
        if not self.criterion.per_group:
            return found
        assert self.groups is not None
        shape = [1] * self.mean.ndim
        shape[self.groups.axis] = -1
        return np.broadcast_to(found.reshape(shape), self.mean.shape)


@dataclass(frozen=True, eq=False)
class Latent:
    """Closed-form guide of one latent site, of a family of `posterior.families`: N(loc, scale²) of x for 'normal'."""

    family: str
    loc: np.ndarray
    scale: np.ndarray

    def sample(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """float32, (count, *site shape)."""
        return FAMILIES[self.family].sample(self.loc, self.scale, count, generator).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Posterior:
    """Moments per parameter, the guide per latent site, buffers, and provenance.

    Attributes:
        parameters: by dotted name, every parameter of the network.
        latents: closed-form guides by site name; empty where there are draws.  Of a point estimate the likelihood's own
            latent sites, each at one value.
        draws: what a sampler drew, or None.
        guide: what a guide of the user's own has trained, by name.
        buffers: the network's buffers (batch-norm statistics) at the end of inference.
        kind: 'chains' (draws of Markov chains), 'iid' (independent draws, weighted or not), 'guide' (a distribution
            that was fitted; its draws are independent too) or 'point'.  R-hat means something for chains alone.
        provenance: method, settings, seed, KL weight, data; written beside every result.
        statistics: scalars of the fit, such as the final ELBO and description length in nats.
        hyperparameters: point estimates of the priors' own, by name, such as 'fc.weight.scale'.
    """

    parameters: Mapping[str, ParameterPosterior]
    latents: Mapping[str, Latent] = field(default_factory=dict)
    buffers: Mapping[str, np.ndarray] = field(default_factory=dict)
    kind: str = "guide"
    provenance: Mapping[str, object] = field(default_factory=dict)
    statistics: Mapping[str, float] = field(default_factory=dict)
    draws: Draws | None = None
    guide: Mapping[str, np.ndarray] = field(default_factory=dict)
    hyperparameters: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InferenceError(f"a posterior is one of {', '.join(KINDS)}, found '{self.kind}'")
        if (self.kind == "chains") and self.draws is None:
            raise InferenceError("a posterior of kind 'chains' needs its draws")

    @property
    def is_distribution(self) -> bool:
        """Whether there is more than one value to draw: a sampler's draws, or a guide that was fitted."""
        return self.draws is not None or (self.kind != "point" and bool(self.latents))

    @property
    def has_density(self) -> bool:
        """Whether its closed-form guide, if it has one, has a density: no site is a point estimate or has atoms."""
        return all(FAMILIES[latent.family].log_density is not None for latent in self.latents.values())

    @property
    def kl_nats(self) -> float | None:
        """KL(q ‖ p) in the last epoch; None where none is known: of points, draws, and guides with points in them."""
        found = self.statistics.get("complexity_nats", math.nan)
        return found if self.kind != "point" and self.has_density and math.isfinite(found) else None

    @property
    def is_normal(self) -> bool:
        """Whether every site of its closed-form guide, if it has one, is normal or log-normal."""
        return all(FAMILIES[latent.family].is_normal for latent in self.latents.values())

    @property
    def flags(self) -> tuple[Flag, ...]:
        """What `pyro_compress.fit` found that speaks against believing it; kept in the provenance as 'flags'."""
        held: Any = self.provenance.get("flags", ())
        return tuple(Flag(str(name), str(sentence)) for name, sentence in held)

    def sample_latents(self, count: int, seed: int) -> dict[str, np.ndarray]:
        """Draws by site, each (count, *shape): independent ones from the guide, or `count` of the sampler's draws.

        Of a sampler's draws each is taken with the probability that is its weight, with replacement.

        Raises:
            InferenceError: the posterior is a point estimate.
        """
        generator = np.random.default_rng(seed)
        if self.draws is not None:
            weights = self.draws.weights().ravel()
            chosen = np.unravel_index(generator.choice(weights.size, size=count, p=weights), self.draws.flat.shape[:2])
            return {name: np.asarray(self.draws.site(name)[chosen]) for name in self.draws.shapes}
        if not self.is_distribution:
            raise InferenceError("a point estimate has no distribution to draw from: fit with SVI(...) instead")
        return {name: latent.sample(count, generator) for name, latent in self.latents.items()}

    def to_arviz(self, **options: Any) -> Any:
        """The draws as ArviZ takes them: `pyro_compress.analysis.to_arviz(posterior, **options)`, which says more."""
        # a posterior knows nothing of the analysis but this door to it, which is opened when it is used
        from pyro_compress.analysis.diagnosis.arviz_export import to_arviz

        return to_arviz(self, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as one safetensors file (no code, no pickle), through a temporary file; draws lie beside it."""
        path = Path(path)
        if self.draws is not None:
            self.draws.save(_draws_folder(path))
        tensors: dict[str, np.ndarray] = {}
        entries: dict[str, dict[str, object]] = {"parameters": {}, "latents": {}}
        for name, parameter in self.parameters.items():
            tensors[f"mean/{name}"], tensors[f"variance/{name}"] = parameter.mean, parameter.variance
            entry: dict[str, object] = {"prior": parameter.prior}
            if not parameter.ratio_ranks:
                entry["ratio_ranks"] = False
            if parameter.value is not None:
                tensors[f"value/{name}"] = parameter.value
            if parameter.quantizer is not None:
                entry["quantizer"] = described(parameter.quantizer)
            if parameter.off is not None:
                tensors[f"off/{name}"] = parameter.off.astype(np.uint8)
            if parameter.criterion is not None:
                entry["criterion"] = asdict(parameter.criterion)
            if parameter.statistic is not None:
                tensors[f"statistic/{name}"] = parameter.statistic
            if parameter.groups is not None:
                groups = asdict(parameter.groups)
                if (scale := groups.pop("scale")) is not None:
                    tensors[f"group_scale/{name}"] = scale
                entry["groups"] = groups
            entries["parameters"][name] = entry
        for name, latent in self.latents.items():
            tensors[f"loc/{name}"], tensors[f"scale/{name}"] = latent.loc, latent.scale
            entries["latents"][name] = latent.family
        for name, buffer in self.buffers.items():
            tensors[f"buffer/{name}"] = buffer
        for name, value in self.guide.items():
            tensors[f"guide/{name}"] = value
        for name, value in self.hyperparameters.items():
            tensors[f"hyper/{name}"] = value
        metadata = {
            "described": json.dumps(entries),
            "kind": self.kind,
            "provenance": json.dumps(dict(self.provenance)),
            "statistics": json.dumps(dict(self.statistics)),
            "has_draws": json.dumps(self.draws is not None),
        }
        write_atomically(path, save({k: np.asarray(v, order="C") for k, v in tensors.items()}, metadata=metadata))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Posterior":
        """Read what `save` wrote.

        Raises:
            InferenceError: the file is missing or is not a posterior.
        """
        path = Path(path)
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            entries = json.loads(metadata["described"])
            provenance, statistics = json.loads(metadata["provenance"]), json.loads(metadata["statistics"])
            parameters = {name: _parameter(name, e, tensors) for name, e in entries["parameters"].items()}
            latents = {
                name: Latent(family, tensors[f"loc/{name}"], tensors[f"scale/{name}"])
                for name, family in entries["latents"].items()
            }
        except Exception as error:
            advice = "run `pyro-compress fit` first"
            if path.exists():
                advice = f"remove it, and `pyro-compress fit --resume {path.parent}` makes it anew"
            raise InferenceError(f"{path} does not hold a posterior ({error}): {advice}") from error
        buffers, guide, learned = (
            {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            for prefix in ("buffer/", "guide/", "hyper/")
        )
        draws = Draws.load(_draws_folder(path)) if json.loads(metadata.get("has_draws", "false")) else None
        return Posterior(parameters, latents, buffers, metadata["kind"], provenance, statistics, draws, guide, learned)


def _draws_folder(path: Path) -> Path:
    """'fit.safetensors' has its draws in 'fit.draws/'; 'fit.v1', which is not 'fit.v2', in 'fit.v1.draws/'."""
    return path.with_suffix(".draws") if path.suffix == ".safetensors" else path.with_name(f"{path.name}.draws")


def _parameter(name: str, entry: dict, tensors: Mapping[str, np.ndarray]) -> ParameterPosterior:
    mean, variance = tensors[f"mean/{name}"], tensors[f"variance/{name}"]
    groups = Groups(scale=tensors.get(f"group_scale/{name}"), **entry["groups"]) if "groups" in entry else None
    criterion = Criterion(**entry["criterion"]) if "criterion" in entry else None
    value, statistic = tensors.get(f"value/{name}"), tensors.get(f"statistic/{name}")
    off = tensors[f"off/{name}"].astype(bool) if f"off/{name}" in tensors else None
    quantizer = from_described(entry.get("quantizer"))
    ranks = entry.get("ratio_ranks", True)
    return ParameterPosterior(
        mean, variance, entry["prior"], groups, value, criterion, statistic, off, quantizer, ranks
    )
