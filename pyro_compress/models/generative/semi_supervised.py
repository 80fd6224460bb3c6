"""The semi-supervised variational autoencoder M2: some examples have a label (Kingma, Mohamed, Rezende & Welling 2014).

    w_p ~ prior_p                                  for every covered parameter p of the decoder
    y_i ~ Categorical(1/K, …),  z_i ~ p(z),  x_i ~ likelihood(decoder(z_i, y_i; w))        i in a plate of N, as ever

with the guide q(y | x) q(z | x, y).  With  −L(x, y) = ln 1/K + E_q ln p(x | y, z, w) − KL(q(z | x, y) ‖ p(z))  an
example adds

    with a label      −L(x_i, y_i) + α (N / N_l) ln q(y_i | x_i)                  N_l: examples with labels
    without           Σ_y q(y | x_i) (−L(x_i, y)) + H[q(y | x_i)]

to what is ascended.  The term with α is no part of a bound: without it q(y | x) would learn from examples without
labels alone.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_compress.data.labels import UNLABELLED
from pyro_compress.data.strata import LabelledShare
from pyro_compress.data.untouched import Untouched
from pyro_compress.errors import DataError, InferenceError, NetworkError, unknown_name
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.generative.bounds import log_prob_by_code
from pyro_compress.models.generative.codes import Codes
from pyro_compress.models.generative.encoder_decoder import LabelledEncoderDecoder
from pyro_compress.models.likelihoods import LIKELIHOODS, Likelihood
from pyro_compress.models.priors.base import LatentSite, Prior

LABELS = ("summed", "relaxed")


class SemiSupervisedVAE(BayesianNetwork):
    """A Pyro model `model(x, y=None, size=None)` over a copy of `network`; y of class labels, -1 where there is none.

    Its prediction is q(y | x): outputs are the classifier's logits, its error is that of classes.  Classifier, encoder
    and what no prior covers of the decoder are learned as point estimates.

    Args:
        network: classifier, encoder, decoder, and what a code is.
        prior: as of `BayesianNetwork`, for the decoder alone, whose names begin with 'decoder.'; {} for none at all.
        likelihood: p(x | decoder's output), or its name; Bernoulli if not given.
        alpha: α ≥ 0.
        labels: that are missing: 'summed' over all classes, exactly, with one code per class, which costs as much as
            one example with a label per class; or 'relaxed': one draw of a relaxed label s = softmax((ln q(y | x) +
            g) / T, y) with Gumbel noise g stands for the sum over y of −L (Jang, Gu & Poole 2017; Maddison, Mnih & Teh
            2017), whose expectation is that of the sum for T → 0 only.
        temperature: T > 0 of relaxed labels.
        labelled_share: of every batch of a fit that has labels (`data.strata`), which leaves the expectation of its
            gradient as it is; 0 takes examples as they come.

    Raises:
        NetworkError, PriorError, RunError: as of `BayesianNetwork`; the network is no `LabelledEncoderDecoder`.
        InferenceError: α, a temperature, a treatment of labels or a share of a batch that there cannot be.
    """

    covered: ClassVar[str] = "decoder."
    has_local_sites: ClassVar[bool] = True

    def __init__(
        self,
        network: nn.Module,
        prior: Prior | str | Mapping[str, Prior | str],
        likelihood: Likelihood | str = "bernoulli",
        *,
        alpha: float = 0.1,
        labels: str = "summed",
        temperature: float = 0.5,
        labelled_share: float = 0.1,
    ) -> None:
        if not isinstance(network, LabelledEncoderDecoder):
            raise NetworkError(
                "a SemiSupervisedVAE takes pc.models.LabelledEncoderDecoder(classifier, encoder, decoder, codes), "
                f"found a {type(network).__name__}"
            )
        if not 0 <= alpha < math.inf or not 0 < temperature < math.inf:
            raise InferenceError(
                f"a SemiSupervisedVAE needs alpha ≥ 0 and temperature > 0, found alpha={alpha}, "
                f"temperature={temperature}"
            )
        if not 0 <= labelled_share < 1:
            raise InferenceError(
                f"labelled_share, of a batch that has labels, is at least 0 and below 1; found {labelled_share}"
            )
        if labels not in LABELS:
            raise InferenceError(unknown_name("treatment of missing labels", labels, LABELS))
        super().__init__(network, prior)
        self.reconstruction = LIKELIHOODS.build(likelihood) if isinstance(likelihood, str) else likelihood
        self.alpha, self.labels, self.temperature = alpha, labels, temperature
        self.labelled = LabelledShare(labelled_share) if labelled_share else None
        self._examples_per_label: float | None = None
        self._untouched_by = {part: Untouched(f"the {part}") for part in ("classifier", "encoder", "decoder")}

    @property
    def network(self) -> LabelledEncoderDecoder:
        """The private copy of the network."""
        network = super().network
        assert isinstance(network, LabelledEncoderDecoder)
        return network

    @property
    def codes(self) -> Codes:
        """What a code is."""
        return self.network.codes

    def latents(self) -> tuple[LatentSite, ...]:
        return (*super().latents(), *self.reconstruction.latents())

    def stored_part(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        return self.network.classifier, input_shape

    def own_settings(self) -> dict[str, str]:
        labels = f"{self.labels}, temperature {self.temperature}" if self.labels == "relaxed" else self.labels
        share = f", {self.labelled.share} of a batch" if self.labelled else ""
        return {"reconstruction": repr(self.reconstruction), "labels": f"{labels}, alpha {self.alpha}{share}"}

    def see(self, x: Tensor, y: Tensor, *more: Tensor) -> None:
        """Count the labels, and look whether the likelihood gives these inputs any probability.

        Raises:
            DataError: there are no labels, or inputs outside the likelihood's support.
        """
        known = int((y != UNLABELLED).sum())
        if not known:
            raise DataError("a SemiSupervisedVAE learns classes from labels, and no training example has one")
        self._examples_per_label = len(y) / known
        values = {name: value.detach() for name, value in self.network.named_parameters()}
        with torch.no_grad():
            label = self.classify(values, x[:1]).softmax(-1)
            output = self.decode(values, self.codes.prior().sample((1,)).to(x.device), label)
            self.reconstruction.check_support(output, _target(x, output), "inputs")

    def observe(
        self,
        values: Mapping[str, Any],
        x: Tensor,
        y: Tensor | None = None,
        teacher: Tensor | None = None,
        *,
        size: int | None = None,
    ) -> Tensor:
        """The plain program, with sites 'y' and 'z'; labels of all these examples, or of none.

        Raises:
            DataError: some labels are missing and some are not, which `bounded` takes.
        """
        refuse_teacher(teacher)
        y = _all_or_none(y)
        latent = self.reconstruction.sample_latents()
        logits = self.classify(values, x)
        with self.rows(x, size):
            drawn = pyro.sample("y", dist.Categorical(logits=torch.zeros_like(logits[0])), obs=y)
            z = pyro.sample("z", self.codes.prior())
            pyro.factor("x", self._log_likelihood(values, x, z, _one_hot(drawn, logits.shape[-1]), latent))
            if y is not None:
                with poutine.scale(scale=self.alpha * self._ratio(y)):
                    pyro.sample("classification", dist.Categorical(logits=logits), obs=y)
        return logits

    def local_guide(self, x: Tensor, y: Tensor | None = None, *more: Any, size: int | None = None) -> None:
        y, values = _all_or_none(y), self.free_values()
        logits = self.classify(values, x)
        with self.rows(x, size):
            if y is None:
                y = pyro.sample("y", dist.Categorical(logits=logits))
            label = _one_hot(y, logits.shape[-1])
            pyro.sample("z", self.codes.posterior(self.encode(values, x, label)))

    def bounded(
        self,
        x: Tensor,
        y: Tensor | None = None,
        weights: Tensor | None = None,
        *,
        size: int | None = None,
        free: Any = None,
    ) -> None:
        """The program that fits run: labels and codes are in one factor, `bounds`, times `weights` of the examples."""
        values, latent = self.sample_weights(free), self.reconstruction.sample_latents()
        with self.rows(x, size):
            bounds = self.bounds(values, x, y, latent)
            pyro.factor("bound", bounds if weights is None else weights * bounds)

    def bounded_guide(self, *args: Any, **kwargs: Any) -> None:
        return

    def reached(self, values: Mapping[str, Any], x: Tensor, output: Tensor) -> Tensor:
        return self.bounds(values, x)

    def bounds(
        self, values: Mapping[str, Any], x: Tensor, y: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """What every example adds, (examples,) in nats, with one draw of each code; see the head of this module.

        Args:
            values: of the parameters of classifier, encoder and decoder, by name.
            x: inputs.
            y: labels, -1 where they are missing; None where all are.
            latent: of the likelihood's own latent site, where it has one.
        """
        log_q = self.classify(values, x).log_softmax(-1)
        classes = log_q.shape[-1]
        y = torch.full_like(log_q[:, 0], UNLABELLED, dtype=torch.int64) if y is None else y
        known, label = y != UNLABELLED, _one_hot(y, classes)
        entropy = -(log_q.exp() * log_q).sum(-1)
        if self.labels == "summed":
            share = torch.where(known[:, None], label, log_q.exp())
            every = torch.eye(classes, dtype=x.dtype, device=x.device)[:, None].expand(-1, len(x), -1)
            bound = (share.T * self._given_labels(values, x, every, latent)).sum(0)
        else:
            bound = self._given_labels(values, x, torch.where(known[:, None], label, self._relaxed(log_q)), latent)
        classified = self.alpha * self._ratio(y) * (label * log_q).sum(-1)
        return bound - math.log(classes) + torch.where(known, classified, entropy)

    def _given_labels(self, values: Mapping[str, Any], x: Tensor, label: Tensor, latent: Tensor | None) -> Tensor:
        """E_q ln p(x | y, z) − KL(q(z | x, y) ‖ p(z)) of labels (*others, examples, classes): (*others, examples)."""
        q = self.codes.posterior(self.encode(values, x, label))
        kl = kl_divergence(q, self.codes.prior().expand(q.batch_shape))
        z = q.rsample().unflatten(0, label.shape[:-1])
        return self._log_likelihood(values, x, z, label, latent) - kl.unflatten(0, label.shape[:-1])

    def _relaxed(self, log_q: Tensor) -> Tensor:
        # a uniform number as Φ(ε), which a run's own stream of noise serves
        gumbel = -torch.log(-torch.special.log_ndtr(torch.randn(log_q.shape, dtype=log_q.dtype, device=log_q.device)))
        return torch.softmax((log_q + gumbel) / self.temperature, -1)

    def _ratio(self, y: Tensor) -> Any:
        """N / N_l as a fit has counted it, else that of these examples."""
        if self._examples_per_label is not None:
            return self._examples_per_label
        return len(y) / (y != UNLABELLED).sum().clamp(min=1)

    def _log_likelihood(
        self, values: Mapping[str, Any], x: Tensor, z: Tensor, label: Tensor, latent: Tensor | None
    ) -> Tensor:
        """ln p(x | y, z, w), (*others, examples)."""
        output = self.decode(values, z, label)
        return log_prob_by_code(self.reconstruction, output, _target(x, output), label.shape[:-1], latent)

    def classify(self, values: Mapping[str, Any], x: Tensor) -> Tensor:
        """Logits of q(y | x), (examples, classes)."""
        with self._placed(values):
            return self._called("classifier", x)

    def encode(self, values: Mapping[str, Any], x: Tensor, label: Tensor) -> Tensor:
        """What the encoder puts out, (rows, codes.outputs): a row for each label of (*others, examples, classes)."""
        with self._placed(values):
            return self._side_by_side("encoder", x.flatten(1).expand(*label.shape[:-1], -1), label)

    def decode(self, values: Mapping[str, Any], z: Tensor, label: Tensor) -> Tensor:
        """The decoder's outputs, (rows, ...): a row for each code and label of (*others, examples, numbers)."""
        with self._placed(values):
            return self._side_by_side("decoder", z, label)

    def _side_by_side(self, part: str, left: Tensor, label: Tensor) -> Tensor:
        return self._called(part, torch.cat([left, label], -1).flatten(0, -2))

    def _called(self, part: str, given: Tensor) -> Tensor:
        output: Tensor = self._untouched_by[part](self.network.get_submodule(part), given, mode=self.network.training)
        return output


def _one_hot(y: Tensor, classes: int) -> Tensor:
    """(*y.shape, classes); zeros where a label is missing."""
    return (y[..., None] == torch.arange(classes, device=y.device)).float()


def _target(x: Tensor, output: Tensor) -> Tensor:
    """x, as it is or as one row of numbers per example."""
    return x if x.shape[1:] == output.shape[1:] else x.flatten(1)


def _all_or_none(y: Tensor | None) -> Tensor | None:
    missing = None if y is None else y == UNLABELLED
    if missing is None or bool(missing.all()):
        return None
    if bool(missing.any()):
        raise DataError(
            f"labels of {int(missing.sum())} of {len(missing)} examples are missing: the plain program takes labels of "
            "all or of none, so call it with either by itself; `bounded`, which fits run, takes both"
        )
    return y


def refuse_teacher(*given: object) -> None:
    """Raise a DataError where any of these, outputs or who is asked for them, is not None."""
    if any(one is not None for one in given):
        raise DataError("a SemiSupervisedVAE takes no outputs of a teacher: leave them out")
