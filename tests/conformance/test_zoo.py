"""Every zoo entry, from one table: it builds all that it names, and is named by it."""

import pkgutil
from dataclasses import replace

import pytest
import torch

from pyro_compress.data.named import NAMES, load
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models import zoo
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.networks import NETWORKS, vgg_16
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys
from pyro_compress.models.priors.registry import PRIORS
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.models.zoo.entry import DEFAULTS, Entry
from pyro_compress.network.stored import format_architecture
from pyro_compress.pipeline.decoders import shipped
from pyro_compress.pipeline.evaluation import published_rows
from pyro_compress.pipeline.settings import NO_PRIOR, settings_from_entry

RELIED_ON = {
    f"{network}/{prior}"
    for network in ("lenet-300-100", "lenet-5")
    for prior in ("log-uniform", "group-normal-jeffreys", "group-horseshoe")
} | {"mlp-500-500/scale-mixture", "digits-cnn/group-horseshoe", "digits-tanh/normal", "mnist-softmax/normal"}

entries = pytest.mark.parametrize("entry", zoo.entries().values(), ids=zoo.entries().keys())


def test_entries_that_others_rely_on_are_there() -> None:
    assert set(zoo.entries()) >= RELIED_ON


def test_each_entry_has_a_file_named_after_it() -> None:
    files = {module.name for module in pkgutil.iter_modules(zoo.__path__)} - {"entry"}
    assert files == {name.replace("-", "_").replace("/", "_") for name in zoo.entries()}


@entries
def test_an_entry_names_registered_things(entry: Entry) -> None:
    # after the network comes the prior, or what the method is called in its paper; a student's comes after 'distil'
    if settings_from_entry(entry.name).reconstructs:
        assert f"{entry.network} ".startswith(entry.name.replace("/", "-"))
    else:
        assert entry.name.partition("/")[0] == ("distil" if entry.teacher else entry.network)
    assert entry.teacher is None or zoo.entry(entry.teacher).data == entry.data
    assert entry.network in NETWORKS
    assert entry.prior in [*PRIORS, NO_PRIOR]
    assert entry.data in NAMES
    with pytest.raises(AttributeError, match="cannot assign to field 'name'"):
        entry.name = "another"  # type: ignore[misc]


# of networks with classes per position
OUTPUTS = {"unet": (11, 24, 24), "text-transformer": (64, 97)}


@entries
def test_an_entry_builds_everything(entry: Entry) -> None:
    length = "draws" if entry.method == "nuts" else "epochs"
    settings = settings_from_entry(entry.name, seed=3, method_options={length: 2})
    assert (settings.entry, settings.seed, settings.method) == (entry.name, 3, entry.method)
    assert (settings.examples, settings.pretrain_epochs) == (entry.examples, entry.pretrain_epochs)
    method = settings.build_method()
    assert getattr(method, length) == 2
    for option, value in entry.method_options.items():
        if option != length:
            assert getattr(method, option) == value
    for option, value in entry.decision_options.items():
        assert getattr(settings.build_decision(), option) == (tuple(value) if isinstance(value, list) else value)
    for option, value in entry.prior_options.items():
        assert getattr(settings.build_prior(), option) == value
    network, registered = settings.build_network(), NETWORKS[entry.network]
    for rewrite in settings.build_rewrites():
        network = rewrite(network)
    shape = trace(*shipped(network, registered.input_shape)).shapes()[-1]
    assert shape == OUTPUTS.get(entry.network, (registered.classes,)) or (
        registered.classes is None and len(shape) == 1
    )
    model = settings.build_model(network)
    # position embeddings have no prior
    weights = {
        name
        for name, parameter in network.named_parameters()
        if parameter.ndim > 1 and parameter.requires_grad and name != "places"
    }
    if settings.reconstructs:
        weights = {name for name in weights if name.startswith("decoder.")}
    assert entry.prior == NO_PRIOR or {parameter.name for parameter, _ in model.parameters_covered} >= weights


@entries
def test_an_entrys_published_figures_have_a_source_and_a_row(entry: Entry) -> None:
    rows = published_rows(entry.name, original_bytes=1_000_000)
    assert len(rows) == len(entry.published)
    for published, row in zip(entry.published, rows, strict=True):
        assert published.source and 0 < published.error_percent < 100
        if published.file_bytes is not None:
            assert row["file_rate"] == 1_000_000 / published.file_bytes
        if published.architecture is not None:
            sizes = [int(size) for size in published.architecture.split("-")]
            assert row["architecture_left"] == published.architecture == format_architecture(tuple(sizes))


def test_entries_are_held_against_the_figures_of_the_papers() -> None:
    rates = {name: entry.published[0].maximum_compression for name, entry in zoo.entries().items() if entry.published}
    expected = {
        "lenet-300-100/group-horseshoe": 59,
        "lenet-300-100/group-normal-jeffreys": 58,
        "lenet-300-100/log-uniform": 113,
        "lenet-300-100/low-rank": None,
        "lenet-5/group-horseshoe": 771,
        "lenet-5/group-horseshoe-narrow": 771,
        "lenet-5/group-normal-jeffreys": 573,
        "lenet-5/log-uniform": 365,
        "lenet-5/structured-bayesian-pruning": None,
        "lenet-300-100/l0": None,
        "lenet-5/l0": None,
        "lenet-5/generalized-dropout": None,
    }
    assert expected.items() <= rates.items()


def test_the_demonstration_runs_on_what_is_embedded() -> None:
    entry = zoo.entry("digits-cnn/group-horseshoe")
    assert load(entry.data).input_shape == NETWORKS[entry.network].input_shape


def test_vgg_16_takes_a_step() -> None:
    torch.manual_seed(0)
    network = vgg_16()
    assert trace(network, (3, 32, 32)).shapes()[-1] == (10,)
    model = BayesianNetwork(network, GroupNormalJeffreys())
    method = replace(SVI(epochs=1, batch_size=2), kl_warmup=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = method.init(model, 2, seed=0)
        loc = next(state.guide.loc.parameters())
        before = loc.detach().clone()
        info = method.step(state, (torch.rand(2, 3, 32, 32), torch.tensor([3, 7])))
    assert info.data_nats < 0 < info.complexity_nats < float("inf")
    assert state.steps_done == 1
    assert bool(torch.isfinite(loc).all()) and not torch.equal(before, loc.detach())


@entries
def test_an_entry_that_sets_something_says_what_it_was_chosen_on(entry: Entry) -> None:
    tuned = {"kl_weight", "learning_rate"} & set(entry.method_options) or entry.decision_options
    assert entry.chosen_on and not (tuned and entry.chosen_on == DEFAULTS)
