"""The settings of a run: everything that decides its outcome, kept beside it as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_compress.config.keyword_options import build, check_options
from pyro_compress.data.augmentation import Augmentation
from pyro_compress.data.binarisation import Binarisation
from pyro_compress.errors import DataError, NetworkError, PriorError, RunError, unknown_name
from pyro_compress.files import write_atomically
from pyro_compress.inference.contract import Method
from pyro_compress.inference.loop.devices import DEVICES
from pyro_compress.inference.registry import METHODS
from pyro_compress.models import networks, zoo
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.generative.vae import VAE
from pyro_compress.models.likelihoods import LIKELIHOODS, Likelihood
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.registry import PRIORS
from pyro_compress.models.rewrites.base import Rewrite
from pyro_compress.models.rewrites.registry import REWRITES
from pyro_compress.models.teaching import Teaching
from pyro_compress.pipeline.decision_settings import DecisionSettings
from pyro_compress.pipeline.given_weights import give_weights
from pyro_compress.posterior.error_unit import NATS_OF_BOUND, ErrorUnit
from pyro_compress.posterior.posterior import Posterior

NO_PRIOR = "none"
NO_TEACHER = "none"


@dataclass(frozen=True)
class RunSettings:
    """What a run directory's settings.json holds.

    Attributes:
        entry: zoo entry that it came from, or None.
        network: registered name or 'module:factory'.
        weights: file that the network's parameters were read from, or run directory of what it stores; or None.
        prior, method, likelihood, data: registered names ('module:factory' for data); prior 'none' has every parameter
            estimated by maximum likelihood.
        prior_options, method_options, likelihood_options, decision_options: keywords of each.
        pretrain_epochs: epochs of plain maximum likelihood before the posterior is fitted.
        pretraining_options: keywords of `MAP`, of `SVI` for an autoencoder, for these epochs and `retrain_epochs`; the
            rate falls linearly if they do not say otherwise.
        rewrites: what makes another network of it after that, in order: the 'name' of each, and its options.
        retrain_epochs: epochs of plain maximum likelihood of the network that the rewrites made.
        teacher: a .pyrc file, a run directory, 'module:factory' or 'module:factory+weights' whose outputs are learned
            beside the labels, or a zoo entry that is fitted first, in the run's own folder; None for no teacher.
        teacher_weight, temperature: λ and T of `models.teaching.Teaching`.
        examples: training examples that are taken, each class its share; None for all of them.
        binarisation: 'static' or 'dynamic', of the images that an autoencoder learns; None leaves them as they are.
        augmentation_options: how training images change each time that they are seen, see `data.augmentation`;
            empty for not at all.
        seed: of initialisation, batches and noise.
        threads: torch threads, which ranks on one machine divide; sums of floats depend on them, so a run keeps its
            number.
        device: 'cpu', 'cuda' or 'mps', where fitting, the search for a decision and evaluation run.
    """

    network: str
    prior: str
    data: str
    entry: str | None = None
    weights: str | None = None
    method: str = "svi"
    likelihood: str = "categorical"
    prior_options: Mapping[str, Any] = field(default_factory=dict)
    method_options: Mapping[str, Any] = field(default_factory=dict)
    likelihood_options: Mapping[str, Any] = field(default_factory=dict)
    decision_options: Mapping[str, Any] = field(default_factory=dict)
    pretrain_epochs: int = 0
    pretraining_options: Mapping[str, Any] = field(default_factory=dict)
    rewrites: tuple[Mapping[str, Any], ...] = ()
    retrain_epochs: int = 0
    teacher: str | None = None
    teacher_weight: float = 0.5
    temperature: float | None = None
    examples: int | None = None
    binarisation: str | None = None
    augmentation_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    threads: int = 2
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_options(self, RunError)
        # build once: a misspelt name or option is said before hours of fitting, not after
        self.build_prior(), self.build_method(), self.build_decision(), self.build_likelihood()
        self.build_rewrites(), self.build_augmentation()
        if self.pretraining_options:
            self._check_pretraining()
        Teaching(self.teacher_weight, self.temperature).check_likelihood(self.build_likelihood())
        if self.teacher is None and (self.teacher_weight, self.temperature) != (0.5, None):
            raise RunError("teacher_weight and temperature are of a teacher, and there is none: give --teacher")
        if ":" not in self.network and self.network not in networks.NETWORKS:
            raise NetworkError(unknown_name("network", self.network, networks.NETWORKS))
        for name, least in (("pretrain_epochs", 0), ("retrain_epochs", 0), ("seed", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise RunError(f"{name} must be at least {least}, found {getattr(self, name)}")
        for name, most in (("seed", 2**63 - 1), ("threads", 4096)):
            if getattr(self, name) > most:
                raise RunError(f"{name} must be at most {most:,}, found {getattr(self, name):,}")
        if self.retrain_epochs and not self.rewrites:
            raise RunError(
                "retrain_epochs train what rewrites have made, and there are none: give --rewrite, or leave it out"
            )
        if self.device.partition(":")[0] not in DEVICES:
            raise RunError(unknown_name("device", self.device, DEVICES))
        if self.examples is not None and self.examples < 1:
            raise RunError(f"examples must be at least 1, found {self.examples}")
        self._check_reconstruction()

    def _check_pretraining(self) -> None:
        if not (self.pretrain_epochs or self.retrain_epochs):
            raise RunError(
                f"pretraining has the options {', '.join(self.pretraining_options)}, and there is none: give "
                "--pretrain-epochs, or leave them out"
            )
        if "epochs" in self.pretraining_options:
            raise RunError("the epochs of pretraining are those of --pretrain-epochs: leave out pretraining.epochs")
        self.build_pretraining(1)

    def _check_reconstruction(self) -> None:
        """What goes with autoencoders alone, or not with them; no network is built where nothing of it is asked for."""
        if self.binarisation is not None:
            Binarisation(self.binarisation)
            if not self.reconstructs:
                raise RunError(
                    f"binarisation='{self.binarisation}' makes binary images for an autoencoder to reconstruct, and "
                    f"network {self.network} is none: leave it out"
                )
        augmented = self.build_augmentation()
        for option, asked in (("--teacher", self.teacher), ("--rewrite", self.rewrites), ("augmentation", augmented)):
            if asked and self.reconstructs:
                raise RunError(f"{option} is for networks that predict, and {self.network} is an autoencoder")

    @cached_property
    def reconstructs(self) -> bool:
        """Whether the network is an autoencoder, whose targets are its inputs."""
        with torch.random.fork_rng(devices=[]):
            return isinstance(self.build_fresh(), EncoderDecoder)

    @property
    def error_unit(self) -> ErrorUnit:
        """What the fit's validation errors are in."""
        return NATS_OF_BOUND if self.reconstructs else self.build_likelihood().error_unit

    def build_prior(self) -> Prior | Mapping[str, Prior]:
        """The prior object; of 'none' an empty rule set, which covers nothing.

        Raises:
            PriorError: an unknown name, or options that it doesn't have.
        """
        if self.prior != NO_PRIOR:
            if self.prior not in PRIORS:
                raise PriorError(unknown_name("prior", self.prior, [*PRIORS, NO_PRIOR]))
            return PRIORS.build(self.prior, self.prior_options)
        if self.prior_options:
            raise PriorError(f"prior '{NO_PRIOR}' has no options, found {', '.join(self.prior_options)}")
        return {}

    @property
    def prior_is_proper(self) -> bool:
        """Whether the prior gives parameters a description length."""
        prior = self.build_prior()
        return isinstance(prior, Prior) and prior.is_proper

    def build_method(self) -> Method:
        """The inference method; a `proposal` among its options is the run directory whose posterior proposes."""
        options = dict(self.method_options)
        if isinstance(run := options.get("proposal"), str):
            options["proposal"] = Posterior.load(Path(run) / "posterior.safetensors")
        return METHODS.build(self.method, options)

    def build_pretraining(self, epochs: int) -> Method:
        """Plain maximum likelihood for that long.

        Raises:
            InferenceError: an unknown option, or a value that it does not take.
        """
        options: dict[str, Any] = {"schedule": "linear", **self.pretraining_options, "epochs": epochs}
        if self.reconstructs:
            # codes have a posterior, whatever the weights have
            return METHODS.build("svi", {"kl_warmup": 0.0, **options})
        return METHODS.build("map", options)

    def build_rewrites(self) -> tuple[Rewrite, ...]:
        """The rewrites, in order."""
        for options in self.rewrites:
            if "name" not in options:
                raise RunError(f"a rewrite has a 'name' among its options, found {dict(options)}")
        return tuple(
            REWRITES.build(options["name"], {key: value for key, value in options.items() if key != "name"})
            for options in self.rewrites
        )

    def build_augmentation(self) -> Augmentation:
        """How training images change; false where they do not.

        Raises:
            DataError: an unknown option, or a value that it does not take.
        """
        return build(Augmentation, "augmentation", self.augmentation_options, DataError)

    def build_likelihood(self) -> Likelihood:
        """The likelihood."""
        return LIKELIHOODS.build(self.likelihood, self.likelihood_options)

    def build_model(self, network: nn.Module) -> BayesianNetwork:
        """The network under the run's prior, with its likelihood, taught as the run is."""
        return self._model(network, self.build_prior())

    def build_unpenalised(self, network: nn.Module) -> BayesianNetwork:
        """The same without a prior: an empty rule set covers nothing, every parameter is a point estimate."""
        return self._model(network, {})

    def _model(self, network: nn.Module, prior: Prior | Mapping[str, Prior]) -> BayesianNetwork:
        if isinstance(network, EncoderDecoder):
            return VAE(network, prior, self.build_likelihood())
        return BayesianNetwork(network, prior, self.build_likelihood(), self.teacher_weight, self.temperature)

    def build_decision(self) -> DecisionSettings:
        """The decision settings."""
        return build(DecisionSettings, "the decision", self.decision_options, RunError)

    def deciding_by(self, options: Mapping[str, Any]) -> "RunSettings":
        """The same with these settings of the decision in the place of its own."""
        return replace(self, decision_options={**self.decision_options, **options})

    def build_network(self) -> nn.Module:
        """The network with its initial parameters: drawn under the global seed, or read from `weights`."""
        network = self.build_fresh()
        if self.weights is not None:
            give_weights(network, Path(self.weights))
        return network

    def build_fresh(self) -> nn.Module:
        """The same without `weights`."""
        return networks.named_or_own(self.network)

    def as_plain(self) -> dict[str, Any]:
        """As settings.json gives them back: lists in the place of tuples."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_atomically(path, json.dumps(self.as_plain(), indent=2) + "\n")

    @staticmethod
    def load(path: Path) -> "RunSettings":
        """Read settings.json.

        Raises:
            RunError: missing, not JSON, or not holding a run's settings.
        """
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise RunError(f"{path.parent} is not a run directory: it has no {path.name}; start with `fit`") from error
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read as JSON: {error}") from error
        if not isinstance(found, dict):
            raise RunError(f"{path} holds a {type(found).__name__}, expected the settings of a run by name")
        known = {f.name for f in fields(RunSettings)}
        for name in found:
            if name not in known:
                raise RunError(f"{path}: " + unknown_name("setting", name, known))
        lacking = [name for name in ("network", "prior", "data") if name not in found]
        if lacking:
            raise RunError(f"{path} lacks {', '.join(lacking)}: start again with `pyro-compress fit`")
        return RunSettings(**found)


def settings_from_entry(name: str, **changes: Any) -> RunSettings:
    """A zoo entry's settings with some replaced; option mappings are merged, None changes nothing.

    Another method or likelihood takes none of the options that the entry gives its own, and no pretraining none of
    those of pretraining; teacher 'none' takes the entry's away.
    """
    entry = zoo.entry(name)
    same_likelihood = changes.get("likelihood") in (None, entry.likelihood)
    same_method = changes.get("method") in (None, entry.method)
    base: dict[str, Any] = {
        "entry": entry.name,
        "network": entry.network,
        "prior": entry.prior,
        "data": entry.data,
        "method": entry.method,
        "likelihood": entry.likelihood,
        "prior_options": dict(entry.prior_options),
        "method_options": dict(entry.method_options) if same_method else {},
        "likelihood_options": dict(entry.likelihood_options) if same_likelihood else {},
        "decision_options": dict(entry.decision_options),
        "pretrain_epochs": entry.pretrain_epochs,
        "pretraining_options": dict(entry.pretraining_options),
        "rewrites": entry.rewrites,
        "retrain_epochs": entry.retrain_epochs,
        "examples": entry.examples,
        "binarisation": entry.binarisation,
        "augmentation_options": dict(entry.augmentation_options),
    }
    if changes.get("teacher") == NO_TEACHER:
        changes["teacher"] = None
    elif entry.teacher is not None:
        base |= {name: getattr(entry, name) for name in ("teacher", "teacher_weight", "temperature")}
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            base[key] = {**base[key], **value}
        elif value is not None:
            base[key] = value
    if not (base["pretrain_epochs"] or base["retrain_epochs"] or changes.get("pretraining_options")):
        base["pretraining_options"] = {}
    return RunSettings(**base)
