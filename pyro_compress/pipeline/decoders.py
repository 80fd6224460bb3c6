"""The road to a file of a variational autoencoder: its decoder is shipped, and learns and is judged at fixed codes.

With the encoder at its posterior mean, q(z | x) and its KL stay as they are, and the bound of an example changes with
the decoder's weights w by E_q ln p(x | z, w) alone.  So the road takes the decoder for a network whose inputs are
codes, one drawn for each example, and whose targets are the examples; what its error rises by, in nats, is what the
bound loses.  One draw per example estimates that without bias, and pairs what is compared.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.generators import noise_of
from pyro_compress.errors import DecisionError, UnstorableError
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.generative.reconstruction import InNats
from pyro_compress.models.likelihoods import Likelihood
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.unlayered import Unlayered
from pyro_compress.pipeline.as_layers import checked
from pyro_compress.pipeline.kinds import AUTOMATIC, WEIGHTS, description_of
from pyro_compress.pipeline.validation import nothing_pruned, place
from pyro_compress.posterior.posterior import Posterior

DECODER = "decoder."
# of the codes: no run's own seed enters them, as none enters the split
_CODES_SEED = 20131220
_ROWS = 1000
Held = TypeVar("Held")


@dataclass(frozen=True, eq=False)
class Road:
    """What is compressed, and what says how well it does.

    Attributes:
        network: that a file holds: of an autoencoder the decoder.
        posterior: of its parameters, by its own names.
        data: its inputs and targets: of a decoder codes and examples.
        likelihood: p(target | output), which says what an error is and its unit.
    """

    network: nn.Module
    posterior: Posterior
    data: DataSet
    likelihood: Likelihood


def shipped(network: nn.Module, input_shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
    """What of a plain network a file holds, and the shape of one of its inputs."""
    if isinstance(network, EncoderDecoder):
        return network.decoder, network.codes.shape
    return network, input_shape


def architecture_of(
    network: nn.Module, input_shape: tuple[int, ...], kind: str = AUTOMATIC
) -> Architecture | Unlayered:
    """What a file says of a plain network: as it is traced and runs, with the code of a decoder; or its tensors."""
    part, shape = shipped(network, input_shape)
    if isinstance(network, EncoderDecoder):
        if kind == WEIGHTS:
            raise UnstorableError("of an autoencoder the decoder is stored, as a runnable file: leave out the kind")
        return replace(checked(part, shape), code=network.codes.stored())
    found = description_of(part, shape, kind)
    return checked(part, shape) if isinstance(found, Architecture) else found


def road_of(network: nn.Module, posterior: Posterior, data: DataSet, likelihood: Likelihood) -> Road:
    """The same as it is given, or of an autoencoder its `decoder_road`."""
    if isinstance(network, EncoderDecoder):
        return decoder_road(network, posterior, data, likelihood)
    return Road(network, posterior, data, likelihood)


def decoder_road(network: EncoderDecoder, posterior: Posterior, data: DataSet, likelihood: Likelihood) -> Road:
    """The decoder with the codes that the posterior's encoder draws for the data.

    Args:
        network: of the original shape; not touched.
        posterior: moments, of encoder and decoder.
        data: inputs as their own targets, `DataSet.reconstructing`.
        likelihood: p(x | decoder's output).

    Raises:
        DecisionError: the posterior has draws, or the data have class labels for targets.
    """
    if posterior.draws is not None:
        raise DecisionError("an autoencoder's decoder is compressed from moments, and this posterior has draws")
    if data.classes is not None:
        raise DecisionError(f"{data.name}: an autoencoder's targets are its inputs: give data.reconstructing()")
    encoding = at_mean(network, posterior).to(data.train_x.device)
    decoder_posterior = replace(
        posterior,
        parameters=of_decoder(posterior.parameters),
        buffers=of_decoder(posterior.buffers),
        # it counts the KL of codes too, and is no description length of weights
        statistics={name: value for name, value in posterior.statistics.items() if name != "complexity_nats"},
    )
    return Road(encoding.decoder, decoder_posterior, _codes_of(encoding, data), InNats(likelihood))


def at_mean(network: EncoderDecoder, posterior: Posterior) -> EncoderDecoder:
    """A copy that holds what the posterior would store, in evaluation mode."""
    network = copy.deepcopy(network)
    place(network, nothing_pruned(posterior))
    return network.eval()


def of_decoder(held: Mapping[str, Held]) -> dict[str, Held]:
    """What is the decoder's, by its own names."""
    return {name.removeprefix(DECODER): value for name, value in held.items() if name.startswith(DECODER)}


def _codes_of(network: EncoderDecoder, data: DataSet) -> DataSet:
    train_x, train_y = data.drawn(data.train_x, data.train_y, _CODES_SEED)
    with noise_of(_CODES_SEED, train_x.device), torch.no_grad():
        train, validation, test = (
            torch.cat(list(_drawn(network, x))) for x in (train_x, data.validation_x, data.test_x)
        )
    name = f"{data.name}, by codes"
    made = {"train_x": train, "train_y": train_y, "validation_x": validation, "test_x": test}
    return replace(data, **made, name=name, train_teacher=None, ask=None, binarisation=None)  # type: ignore[arg-type]


def _drawn(network: EncoderDecoder, x: torch.Tensor) -> Iterator[torch.Tensor]:
    for part in x.split(_ROWS):
        if len(part):
            yield network.codes.posterior(network.encoder(part)).sample()
        else:
            yield x.new_zeros((0, *network.codes.shape))
