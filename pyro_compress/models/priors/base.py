"""What a prior's file declares: its sample statements, the guide family of each latent site, its moments.

`inference/guides/declared.py` only interprets this, so a new prior is one file (see docs/adding-a-prior.md).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.distributions import biject_to, constraints

from pyro_compress.config.keyword_options import check_options
from pyro_compress.errors import PriorError
from pyro_compress.models.hyperparameters import Hyperparameter
from pyro_compress.models.parameters import Parameter
from pyro_compress.network.quantizers import Quantizer
from pyro_compress.posterior.criterion import Criterion

# guide families whose `loc` is the mean of the site
_MEANS = ("normal", "dropout", "point")


@dataclass(frozen=True)
class LatentSite:
    """One latent sample site and the variational family that goes with it.

    Attributes:
        name: the Pyro site's name.
        family: a name of `inference.guides.families.registry.FAMILIES`, such as 'normal'; what `loc` and `log_variance`
            mean is said there.
        shape: event shape of the site, for 'transformed' in unconstrained space.
        loc: initial location (for 'lognormal': of the logarithm), broadcast to `shape`.
        log_variance: initial log σ² (for 'dropout': initial log α).
        role: 'weight', 'scale' or 'other'; learning rates are given per role.
        max_log_variance: bound of log σ² (for 'dropout': of log α), or None.
        min_log_variance: its lower bound, or None.
        loc_bound: for 'normal', from σ to the largest |loc|, of a shape that broadcasts to `shape`, or None; it may
            read hyper-parameters.
        tied: for 'dropout', the shape of α, broadcastable to `shape`; None ties nothing.
        learned: for 'dropout', whether α is learned.
        transform: for 'transformed', from the unconstrained space that `shape` and `loc` belong to into the site's own.
        axes: for every axis of `shape` the axis of the parameter that it runs along, None for one that runs along none;
            if not given, all of the parameter's in order for a site that is the parameter itself (by its name), and
            unknown for others.  A network loses units while it is trained where all axes are known.
    """

    name: str
    family: str
    shape: torch.Size
    loc: torch.Tensor
    log_variance: float
    role: str = "other"
    max_log_variance: float | None = None
    tied: torch.Size | None = None
    learned: bool = True
    transform: Any = None
    axes: tuple[int | None, ...] | None = None
    min_log_variance: float | None = None
    loc_bound: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def bounds_log_variance(self) -> bool:
        """Whether log σ² has a bound on either side."""
        return self.min_log_variance is not None or self.max_log_variance is not None

    def bounded(self, log_variance: torch.Tensor) -> torch.Tensor:
        """log σ² (for 'dropout': log α) within its bounds."""
        if not self.bounds_log_variance:
            return log_variance
        return log_variance.clamp(self.min_log_variance, self.max_log_variance)

    @property
    def to_support(self) -> Any:
        """From the unconstrained space that `shape` and `loc` belong to into the site's own; None where it is that."""
        return biject_to(constraints.positive) if self.family == "lognormal" else self.transform

    @property
    def declared_shape(self) -> torch.Size:
        """Event shape in the site's own space."""
        return self.shape if self.to_support is None else torch.Size(self.to_support.forward_shape(self.shape))

    def axes_of(self, parameter: Parameter) -> tuple[int | None, ...] | None:
        """`axes`, or what follows from the name; None where they are unknown.

        Raises:
            PriorError: they are not those of `shape`, or lengths differ.
        """
        axes = self.axes
        if axes is None and self.name == parameter.name:
            axes = tuple(range(len(parameter.shape)))
        if axes is None:
            return () if not self.shape else None
        lengths = [
            None if axis is None else parameter.shape[axis]
            for axis in axes
            if axis is None or axis < len(parameter.shape)
        ]
        fits = len(axes) == len(lengths) == len(self.shape)
        if not fits or any(n not in (None, size) for n, size in zip(lengths, self.shape, strict=True)):
            raise PriorError(
                f"site '{self.name}' of shape {tuple(self.shape)} says that its axes run along {axes} of "
                f"'{parameter.name}', which has shape {tuple(parameter.shape)}: give one axis of that length, or None, "
                "for each"
            )
        return axes

    def vanishes(self, parameter: Parameter) -> bool:
        """Whether a weight is zero wherever the mean of this site is: it is the weight, or a factor of its shape."""
        every = tuple(range(len(parameter.shape)))
        return self.role == "weight" and self.family in _MEANS and self.axes_of(parameter) == every


@dataclass(frozen=True)
class Moments:
    """Mean and variance of one site under the guide: of x itself, for the family 'lognormal' of ln x.

    `loc` is the guide's own, where its family is not normal.
    """

    family: str
    mean: torch.Tensor
    variance: torch.Tensor
    loc: torch.Tensor | None = None


@dataclass(frozen=True)
class Prior(ABC):
    """A declarative, frozen prior over one parameter tensor.

    Class attributes:
        elementwise: whether it makes sense on any tensor; group priors need a weight matrix or filters.
        has_mode: whether the joint density of its sites is bounded, so that MAP can look for its mode; else the prior
            counts as flat there.
        covers_biases: whether a single prior given for a whole network covers biases and norm parameters too.
    """

    elementwise: ClassVar[bool] = True
    has_mode: ClassVar[bool] = True
    covers_biases: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Options of another type than declared are refused; a prior that checks more calls this first."""
        check_options(self, PriorError)

    @abstractmethod
    def sample(self, parameter: Parameter) -> Any:
        """Run the generative sample statements and return the weight; ordinary Pyro code."""

    @abstractmethod
    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        """The latent sites for guides, started at the network's present `value`."""

    @abstractmethod
    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of the weight under the guide, each of the parameter's shape."""

    def hyperparameters(self, parameter: Parameter, value: torch.Tensor) -> tuple[Hyperparameter, ...]:
        """What is learned of the prior as point estimates, for this parameter alone, started at its `value`.

        Everything here may read the present values from `parameter.hyper`.
        """
        return ()

    def shared_hyperparameters(self, covered: Sequence[tuple[Parameter, torch.Tensor]]) -> tuple[Hyperparameter, ...]:
        """The same, for all parameters together that this prior covers, with their values: one for a network."""
        return ()

    def stored(self, parameter: Parameter, mean: torch.Tensor) -> tuple[Quantizer, torch.Tensor] | None:
        """The values that may be stored under this prior, such as levels that were learned, and those for a mean.

        Args:
            parameter: with its hyper-parameters as they were learned.
            mean: of the weight, of the parameter's shape.

        Returns:
            A quantizer, which decision, training on the grid and file keep to, and numbers of the shape of the mean,
            each of which is stored as the quantizer's nearest: the mean itself, or what the prior takes in its place.
            None leaves both to the decision.
        """
        return None

    def at_prediction(self, parameter: Parameter, sites: Mapping[str, Moments]) -> torch.Tensor | None:
        """The weight that predicts and is stored where that is not its mean, of its shape; None for the mean."""
        return None

    @property
    def criterion(self) -> Criterion | None:
        """By what the posterior says which weights or groups are off; None where that takes a cut of the user's."""
        return None

    def scale_moments(
        self, parameter: Parameter, sites: Mapping[str, Moments]
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Mean and variance per group, each (groups,), of z, or of ln z if the criterion is taken of 'log_scale'."""
        return None

    def statistic(self, parameter: Parameter, sites: Mapping[str, Moments]) -> torch.Tensor | None:
        """The criterion's statistic where it is the prior's own: (groups,), or of the parameter's shape."""
        return None

    def log_scale(self, parameter: Parameter, values: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """ln z per group, (..., groups), from one or more values of every site, (..., *shape); None without a scale."""
        return None

    @property
    def is_proper(self) -> bool:
        """Whether the prior integrates to one: needed for draws, MCMC and description lengths."""
        return True

    def check(self, parameter: Parameter) -> None:
        """Refuse parameters that the prior cannot cover.

        Raises:
            PriorError: a group prior on a bias or a normalisation parameter.
        """
        if not self.elementwise and parameter.group_axis is None:
            raise PriorError(
                f"{type(self).__name__} ties groups of inputs or filters and cannot cover {parameter.kind} parameter "
                f"'{parameter.name}' of shape {tuple(parameter.shape)}; give it Normal(...) or leave it out"
            )


def product_moments(
    weight: Moments, scale_mean: torch.Tensor, scale_variance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments of w = z·w̃ for independent z and w̃.

    E w = E z · E w̃;  Var w = E[z]² Var w̃ + Var z · E[w̃]² + Var z · Var w̃  (Louizos et al. 2017, eq. 10).
    """
    mean = scale_mean * weight.mean
    second = scale_mean.square() + scale_variance
    return mean, second * weight.variance + scale_variance * weight.mean.square()
