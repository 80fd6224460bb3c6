"""What a zoo entry is: registered names and keywords, and the published figures it is held against."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULTS = "nothing: β = 1 and default settings"
# what examples, seeds and rule β, epochs and rate weights were compared on was not written down at the time
UNRECORDED = (
    "β, epochs and stages: not recorded; cut, c and last stage: by every run anew, on its own validation examples "
    "(the split of data.SPLIT_SEED) with the rule of pipeline/acceptance.py"
)


@dataclass(frozen=True)
class Published:
    """One row of a published table; rates are formulas, not file sizes, unless `file_bytes` is given.

    Attributes:
        bits: per weight of each layer, as '8-9-14'.
        rival: whether it is of another method than the entry's, which tables don't print below its row.
        weights_left_percent: weights that are not zero, as published; `pruning` is another count, of dense layers.
    """

    method: str
    source: str
    error_percent: float
    pruning: float | None = None
    fast_prediction: float | None = None
    maximum_compression: float | None = None
    architecture: str | None = None
    file_bytes: int | None = None
    bits: str | None = None
    weights_left_percent: float | None = None
    rival: bool = False


@dataclass(frozen=True)
class Entry:
    """Network × prior × method × decision, as pure data.

    Attributes:
        name: 'network/prior', as `pyro-compress run` takes it; 'network/prior-variant' for other decisions, and
            'network/rewrite' where a rewrite is what it shows.
        network, prior, method, data: registered names.
        likelihood: registered name.
        prior_options, method_options, likelihood_options, decision_options: keywords of each.
        pretrain_epochs: epochs of plain maximum likelihood before the posterior is fitted.
        pretraining_options: keywords of `MAP` for these.
        rewrites: what makes another network of it after that, each by its 'name' and options.
        retrain_epochs: epochs of plain maximum likelihood of the network that they made.
        teacher: another entry, which is fitted first and teaches this one; None for no teacher.
        teacher_weight, temperature: of `models.teaching.Teaching`.
        examples: training examples that are taken, stratified; None for all of them.
        binarisation: of an autoencoder's data, see `DataSet.reconstructing`.
        augmentation_options: how training images change each time that they are seen, see `data.augmentation`.
        published: what it is held against.
        chosen_on: what its β, epochs and stages were chosen on: examples, seed and rule, or that they are defaults.
    """

    name: str
    network: str
    prior: str
    data: str
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
    published: tuple[Published, ...] = ()
    chosen_on: str = DEFAULTS
