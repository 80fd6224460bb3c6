"""The network that a run begins with: as it is given, trained by maximum likelihood, rewritten, trained again.

Each of these is on disk or follows from the settings and what is on disk, so every later step makes the same network.
"""

import copy
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from safetensors.numpy import save
from torch import nn

from pyro_compress.data.dataset import DataSet
from pyro_compress.errors import RunError, UnstorableWarning
from pyro_compress.files import write_atomically
from pyro_compress.inference.fit import Callback, fit
from pyro_compress.inference.loop.processes import Ranks
from pyro_compress.inference.loop.suitability import check_classes
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.networks import load_weights
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Architecture
from pyro_compress.pipeline.decoders import shipped
from pyro_compress.pipeline.kinds import description_of
from pyro_compress.pipeline.run_directory import RunDirectory
from pyro_compress.pipeline.settings import RunSettings


def build_network(settings: RunSettings, data: DataSet) -> nn.Module:
    """The network that is compressed, with its initial parameters, checked against the shapes of the data."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        network = settings.build_network()
    if isinstance(network, EncoderDecoder) and settings.likelihood == "categorical":
        raise RunError(
            f"network {settings.network} is an autoencoder, which reconstructs numbers and no classes: take the "
            "likelihood bernoulli (with a binarisation), continuous-bernoulli or gaussian"
        )
    if isinstance(network, EncoderDecoder):
        trace(*shipped(network, data.input_shape))
        return network
    found = description_of(network, data.input_shape, settings.build_decision().kind)
    likelihood = settings.build_likelihood()
    if isinstance(likelihood, Categorical):
        output_shape = found.shapes()[-1] if isinstance(found, Architecture) else found.output_shape
        check_classes(data, output_shape, f"network {settings.network}", likelihood)
    return network


def rebuilt_network(run: RunDirectory, settings: RunSettings, data: DataSet) -> nn.Module:
    """The network as its factory makes it for whoever has the file: from other random numbers than the run's.

    What rewrites have made is read from the run, as no factory makes it.
    """
    if settings.rewrites:
        return fitted_network(run, settings, data)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed + 1)
        return settings.build_fresh()


def rewritten(settings: RunSettings, network: nn.Module, data: DataSet) -> nn.Module:
    """What the run's rewrites make of a network, one after the other; the network itself where there are none."""
    for rewrite in settings.build_rewrites():
        network = rewrite(network, data.input_shape)
        description_of(network, data.input_shape, settings.build_decision().kind)
    return network


def fitted_network(run: RunDirectory, settings: RunSettings, data: DataSet) -> nn.Module:
    """The network whose posterior the run holds, as the fit began with it where there are rewrites.

    Raises:
        NetworkError: what is on disk is not what the rewrites make.
    """
    network = build_network(settings, data)
    if settings.rewrites:
        if run.initial.exists():
            load_weights(network, run.initial)
        network = rewritten(settings, network, data)
        load_weights(network, run.rewritten)
    return network


def train_first(
    run: RunDirectory,
    path: Path,
    network: nn.Module,
    settings: RunSettings,
    data: DataSet,
    epochs: int,
    callbacks: Iterable[Callback] = (),
) -> None:
    """Plain maximum likelihood first: a deterministic epoch costs a fraction of a Bayesian one.

    Writes the trained parameters to `path`; where that file is there already it is read instead.
    """
    ranks = Ranks.here()
    if not ranks.from_first(path.exists):
        held = {name: t.numpy() for name, t in network.state_dict().items() if t.is_floating_point()}
        if epochs:
            model = settings.build_unpenalised(network)
            method = settings.build_pretraining(epochs)
            with timed(run, "pretrain"), warnings.catch_warnings():
                warnings.simplefilter("ignore", UnstorableWarning)
                posterior = fit(model, data, method, seed=settings.seed, device=settings.device, callbacks=callbacks)
            held = {name: site.mean for name, site in posterior.parameters.items()} | dict(posterior.buffers)
        if ranks.first:
            write_atomically(path, save(held))
        ranks.wait()
    load_weights(network, path)


def timed(run: RunDirectory, step: str, *, again: bool = False) -> AbstractContextManager[Callable[[], None]]:
    """`RunDirectory.timed`; of several ranks the first alone notes anything."""
    return run.timed(step, again=again) if Ranks.here().first else nullcontext(lambda: None)


def starts_of(run: RunDirectory, settings: RunSettings, data: DataSet, network: nn.Module) -> dict[str, nn.Module]:
    """What the fit began with, where that was more than random numbers.

    Args:
        run, settings, data: of the run.
        network: that whose posterior it holds, with its initial parameters.
    """
    given = build_network(settings, data)
    found = {} if settings.weights is None else {"weights given": given}
    if run.initial.exists():
        found["pretrained network"] = copy.deepcopy(given)
        load_weights(found["pretrained network"], run.initial)
    if settings.rewrites:
        found["rewritten network"] = network
    elif not found and ":" in settings.network:
        found["network given"] = network
    return found
