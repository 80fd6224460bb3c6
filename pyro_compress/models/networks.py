"""Networks: plain `torch.nn.Module`s by name, and the user's own by `module:factory` and a file of weights.

Nothing here knows of priors or compression; any module that `models.tracing.tracer` accepts does as well.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from pyro_compress.config.factories import call_factory
from pyro_compress.errors import NetworkError, unknown_name
from pyro_compress.models.generative.autoencoders import autoencoder_mnist, autoencoder_mnist_cnn
from pyro_compress.models.generative.codes import GaussianCodes
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.hazards import survival, survival_linear
from pyro_compress.models.residual import resnet_20
from pyro_compress.models.small_networks import CharacterGRU, CharacterTransformer, UNet, series, tabular
from pyro_compress.models.tiny import tiny_cnn


def _mlp(*widths: int, activation: type[nn.Module] = nn.ReLU, flatten: bool = True) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten()) if flatten else OrderedDict()
    for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        layers[f"fc{number}"] = nn.Linear(inputs, outputs)
        if number < len(widths) - 1:
            layers[f"{activation.__name__.lower()}{number}"] = activation()
    return nn.Sequential(layers)


def lenet_300_100() -> nn.Sequential:
    """LeNet-300-100 (LeCun et al. 1998): 784-300-100-10 with ReLU, 266,610 parameters; layers fc1, fc2, fc3."""
    return _mlp(784, 300, 100, 10)


def mlp_500_500() -> nn.Sequential:
    """784-500-500-10 with ReLU, one of the networks of Bayes by Backprop (Blundell et al. 2015)."""
    return _mlp(784, 500, 500, 10)


def mlp_128_128() -> nn.Sequential:
    """784-128-128-10 with ReLU, 118,282 parameters: a student to distil `mnist_cnn` into."""
    return _mlp(784, 128, 128, 10)


def mnist_cnn() -> nn.Sequential:
    """32 and 64 filters of 3 × 3, max-pooled by 2, then 9216-128-10, 1,199,882 parameters; dropout ¼ and ½ (Keras)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 32, 3),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, 3),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            dropout1=nn.Dropout(0.25),
            flatten=nn.Flatten(),
            fc1=nn.Linear(9216, 128),
            relu3=nn.ReLU(),
            dropout2=nn.Dropout(0.5),
            fc2=nn.Linear(128, 10),
        )
    )


def digits_mlp() -> nn.Sequential:
    """64-100-50-10 with ReLU for the 8 × 8 digits that scikit-learn ships."""
    return _mlp(64, 100, 50, 10)


def digits_softmax() -> nn.Sequential:
    """Softmax regression for the digits, 64-10, 650 parameters: its log posterior has one mode."""
    return _mlp(64, 10)


def digits_tanh() -> nn.Sequential:
    """64-16-10 with tanh for the digits, 1,210 parameters: small and smooth, as samplers on all the data like it."""
    return _mlp(64, 16, 10, activation=nn.Tanh)


def mnist_softmax() -> nn.Sequential:
    """Softmax regression for 28 × 28 images, 784-10, 7,850 parameters."""
    return _mlp(784, 10)


def mnist_tanh() -> nn.Sequential:
    """784-16-10 with tanh, 12,730 parameters."""
    return _mlp(784, 16, 10, activation=nn.Tanh)


def lenet_5() -> nn.Sequential:
    """LeNet-5 as in Caffe: 20 and 50 filters of 5 × 5, each max-pooled by 2, then 800-500-10; 431,080 parameters.

    Caffe's definition has a ReLU after fc1 only.  Sparse Variational Dropout (Molchanov et al. 2017) and Bayesian
    Compression (Louizos et al. 2017) put one after each convolution too, and so does this network.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500),
            relu3=nn.ReLU(),
            fc2=nn.Linear(500, 10),
        )
    )


def digits_cnn() -> nn.Sequential:
    """A small CNN for the 8 × 8 digits: 16 and 32 filters of 3 × 3, then 128-64-10; 13,706 parameters."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 16, 3, padding=1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, 3),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(128, 64),
            relu3=nn.ReLU(),
            fc2=nn.Linear(64, 10),
        )
    )


_VGG_16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


def vgg_16() -> nn.Sequential:
    """VGG-16 for 3 × 32 × 32 images: 13 convolutions with batch norm, then 512-512-10 (Zagoruyko 2015).

    The network of the Bayesian Compression paper, 15.0 million parameters.  Dropout is left out, since the
    posterior brings its own noise; layers before a batch norm have no bias, since its shift is one.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, number = 3, 0
    for entry in _VGG_16:
        if isinstance(entry, str):
            layers[f"pool{number}"] = nn.MaxPool2d(2)
            continue
        number += 1
        layers[f"conv{number}"] = nn.Conv2d(channels, entry, 3, padding=1, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(entry)
        layers[f"relu{number}"] = nn.ReLU()
        channels = entry
    layers.update(
        flatten=nn.Flatten(),
        fc1=nn.Linear(512, 512, bias=False),
        norm14=nn.BatchNorm1d(512),
        relu14=nn.ReLU(),
        fc2=nn.Linear(512, 10),
    )
    return nn.Sequential(layers)


def _dense_encoder_decoder(*widths: int) -> EncoderDecoder:
    """Dense layers with tanh from inputs to Gaussian codes, and their mirror image."""
    codes = GaussianCodes(widths[-1])
    encoder = _mlp(*widths[:-1], codes.outputs, activation=nn.Tanh)
    return EncoderDecoder(encoder, _mlp(*reversed(widths), activation=nn.Tanh, flatten=False), codes)


def vae_digits() -> EncoderDecoder:
    """Encoder 64-32-16 for 8 Gaussian codes of the digits, decoder 8-32-64; tanh, 5,008 parameters."""
    return _dense_encoder_decoder(64, 32, 8)


def vae_mnist() -> EncoderDecoder:
    """Encoder 784-200-200-100 for 50 Gaussian codes, decoder 50-200-200-784, tanh; one layer of Burda et al. (2016).

    425,284 parameters, 207,984 of them in the decoder.
    """
    return _dense_encoder_decoder(784, 200, 200, 50)


@dataclass(frozen=True)
class NetworkEntry:
    """A registered network: how to build it, the shape of one example, the number of classes; None if it has none."""

    factory: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    classes: int | None


NETWORKS: dict[str, NetworkEntry] = {
    "autoencoder-mnist": NetworkEntry(autoencoder_mnist, (1, 28, 28), None),
    "autoencoder-mnist-cnn": NetworkEntry(autoencoder_mnist_cnn, (1, 28, 28), None),
    "lenet-300-100": NetworkEntry(lenet_300_100, (1, 28, 28), 10),
    "lenet-5": NetworkEntry(lenet_5, (1, 28, 28), 10),
    "mlp-500-500": NetworkEntry(mlp_500_500, (1, 28, 28), 10),
    "mlp-128-128": NetworkEntry(mlp_128_128, (1, 28, 28), 10),
    "mnist-cnn": NetworkEntry(mnist_cnn, (1, 28, 28), 10),
    "digits-cnn": NetworkEntry(digits_cnn, (1, 8, 8), 10),
    "digits-mlp": NetworkEntry(digits_mlp, (1, 8, 8), 10),
    "digits-softmax": NetworkEntry(digits_softmax, (1, 8, 8), 10),
    "digits-tanh": NetworkEntry(digits_tanh, (1, 8, 8), 10),
    "mnist-softmax": NetworkEntry(mnist_softmax, (1, 28, 28), 10),
    "mnist-tanh": NetworkEntry(mnist_tanh, (1, 28, 28), 10),
    "resnet-20": NetworkEntry(resnet_20, (3, 32, 32), 10),
    "series": NetworkEntry(series, (3, 96), None),
    "survival": NetworkEntry(survival, (7,), None),
    "survival-linear": NetworkEntry(survival_linear, (7,), None),
    "tabular": NetworkEntry(tabular, (26,), None),
    "text-gru": NetworkEntry(CharacterGRU, (64,), 97),
    "text-transformer": NetworkEntry(CharacterTransformer, (64,), 97),
    "tiny-cnn": NetworkEntry(tiny_cnn, (1, 28, 28), 10),
    "unet": NetworkEntry(UNet, (1, 24, 24), 11),
    "vae-digits": NetworkEntry(vae_digits, (1, 8, 8), None),
    "vae-mnist": NetworkEntry(vae_mnist, (1, 28, 28), None),
    "vgg-16": NetworkEntry(vgg_16, (3, 32, 32), 10),
}


def build(name: str) -> nn.Module:
    """The registered network of this name, freshly initialised from torch's global generator.

    Raises:
        NetworkError: no such name; the sentence lists the known ones and the nearest match.
    """
    if name not in NETWORKS:
        raise NetworkError(unknown_name("network", name, NETWORKS))
    return NETWORKS[name].factory()


def load_network(reference: str, option: str = "--network") -> nn.Module:
    """The user's own network, from `module:factory`: a function or class that needs no arguments.

    The module is looked for on the Python path and in the current folder.

    Raises:
        NetworkError: the module or the factory is not found, fails, or gives something else than a network.
    """
    network = call_factory(reference, option, NetworkError)
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{option} {reference} returned a {type(network).__name__}, expected a torch.nn.Module")
    return network


def named_or_own(reference: str) -> nn.Module:
    """What `--network` names: a registered network, or one of the user's own.

    Raises:
        NetworkError: see `build` and `load_network`.
    """
    return load_network(reference) if ":" in reference else build(reference)


# precisions of real numbers that weights may be stored in
REAL_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Copy a state dict from a `.safetensors` file, or from what `torch.save(network.state_dict(), path)` wrote.

    Pickled code is never run (`weights_only=True`).  Either all numbers are taken over or none.  Real numbers of
    other precisions (float64, float16, bfloat16) become the network's; integers are not taken for weights, since
    what they stand for is told by a scale that no state dict holds.

    Raises:
        NetworkError: the file is missing or holds no state dict, or a name, shape, type or value does not fit.
    """
    take_over(network, _read_state(Path(path)), f"weights {path}", "the file")


def take_over(network: nn.Module, given: Mapping[str, torch.Tensor], what: str, holder: str) -> None:
    """Copy tensors by name into a network, all of them or none.

    Args:
        network: whose parameters and buffers are written into.
        given: by the names of its state dict.
        what, holder: what is given, and what holds it, at the beginning and in the middle of a sentence.

    Raises:
        NetworkError: a name, shape, type or value does not fit.
    """
    listed = network.state_dict()
    # a fit keeps buffers that no state dict lists too
    expected = dict(network.named_buffers()) | listed
    # of a parameter of several modules a file may have any of its names, and some tools write one alone
    alike: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        alike.setdefault(id(tensor), []).append(name)
    known = {name for names in alike.values() if any(one in given for one in names) for name in names}
    # Counters of batches are no weights, and files from other tools often lack them.
    missing = [name for name in listed if name not in known and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in expected]
    if missing or unexpected:
        parts = [
            f"{kind} {', '.join(names)}" for kind, names in (("lacks", missing), ("has unknown", unexpected)) if names
        ]
        raise NetworkError(f"{what} do not fit the network: {holder} {' and '.join(parts)}")
    fitting = {name: _fitting(f"{what}: {name}", tensor, expected[name]) for name, tensor in given.items()}
    for name, tensor in fitting.items():
        if name.rpartition(".")[2] == "running_var" and bool((tensor < 0).any()):
            raise NetworkError(
                f"{what}: {name} holds {float(tensor.min()):g}, and no variance is negative: save it again"
            )
    for names in alike.values():
        first, *others = [name for name in names if name in fitting] or [""]
        for other in others:
            if not torch.equal(fitting[first], fitting[other]):
                raise NetworkError(
                    f"{what}: {first} and {other} are one parameter of the network, and {holder} holds two"
                )
    with torch.no_grad():
        for name, tensor in fitting.items():
            expected[name].copy_(tensor)


def _fitting(what: str, given: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """The numbers in the network's own type."""
    if given.shape != expected.shape:
        raise NetworkError(f"{what} has shape {tuple(given.shape)}, expected {tuple(expected.shape)}")
    if given.layout != torch.strided or given.is_meta or given.is_nested:
        kind = "meta" if given.is_meta else "nested" if given.is_nested else str(given.layout).removeprefix("torch.")
        raise NetworkError(f"{what} is a {kind} tensor, expected a dense one: save tensor.to_dense(), with numbers")
    is_real = given.dtype in REAL_TYPES
    is_count = not expected.is_floating_point() and not (given.is_complex() or given.is_quantized or is_real)
    if not (is_real or is_count):
        raise NetworkError(
            f"{what} is {given.dtype}, expected {expected.dtype}: convert it to that first, with its scale if it is "
            "quantised"
        )
    found = given.to(expected.dtype)
    # a number can be too large for the network's type
    if is_real and not bool((torch.isfinite(given) & torch.isfinite(found)).all()):
        raise NetworkError(f"{what} holds NaN or infinite values")
    if is_real and not expected.is_floating_point() and not torch.equal(found.to(given.dtype), given):
        raise NetworkError(f"{what} is {given.dtype} and no whole number, expected {expected.dtype}")
    return found


def _read_state(path: Path) -> Mapping[str, torch.Tensor]:
    if not path.is_file():
        raise NetworkError(f"there is no file of weights at {path}")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's advice is to run what the file holds
        raise NetworkError(
            f"weights {path} cannot be read without running code that the file holds, or are damaged: expected a "
            ".safetensors file or torch.save(network.state_dict(), path), and not the network itself"
        ) from error
    except Exception as error:
        raise NetworkError(
            f"weights {path} cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}; "
            "expected a .safetensors file or torch.save(network.state_dict(), path)"
        ) from error
    if not isinstance(state, Mapping):
        raise NetworkError(f"weights {path} hold a {type(state).__name__}, expected a state dict: names to tensors")
    for name, tensor in state.items():
        if not (isinstance(name, str) and isinstance(tensor, torch.Tensor)):
            raise NetworkError(
                f"weights {path}: entry '{name}' is a {type(tensor).__name__}, expected a state dict of tensors; "
                "save network.state_dict() alone"
            )
    return state
