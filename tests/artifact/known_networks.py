"""Which networks end in a runnable file: the table of docs/networks.md, row by row.

python -m tests.artifact.known_networks    # prints it, and the short one of README.md
"""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torchvision
from torch import nn

from pyro_compress.errors import UnstorableError
from pyro_compress.models.tracing.tracer import trace
from tests.artifact.small_networks import SMALL

SHORT_HEAD = "| a file of | networks |\n| --- | --- |\n"
HEAD = "| network | file | layers, or what is in the way |\n| --- | --- | --- |\n"
SIDE = 64
# of torchvision; those in the first line are traced in every run of the tests
QUICK = ("mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5")
OTHERS = (
    *("resnet18", "wide_resnet50_2", "resnext50_32x4d", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_large"),
    *("efficientnet_b0", "efficientnet_v2_s", "densenet121", "googlenet", "inception_v3", "regnet_y_400mf"),
    *("convnext_tiny", "vit_b_16", "swin_t", "maxvit_t"),
)
DESCRIPTIONS = {
    "mobile": "inverted blocks with squeeze and excitation",
    "unet": "a U-Net",
    "dense": "a dense block",
    "inception": "four branches, concatenated",
    "series": "Conv1d, group norm, PReLU, ConvTranspose1d",
    "filter": "a series to a series, circular Conv1d",
    "normalised": "an MLP with layer norm and RMS norm",
    "gated": "a gated linear unit",
    "framed": "padding, instance norm, differences, two poolings",
    "encoder": "torch's transformer encoder behind a class token",
    "vision": "a vision transformer of one block",
    "channels last": "a block of ConvNeXt, channels last",
    "mixer": "dense layers over places and over features",
    "gpt": "a small GPT of tokens",
    "shared tokens": "a GPT whose output shares the embedding's weights",
    "reader": "a bidirectional LSTM and a GRU",
    "elman": "recurrent layers without gates",
    "tutorial": "PyTorch's tutorial, which counts its features",
    "excited": "squeeze and excitation by `expand_as`, shuffled channels",
    "finer": "super-resolution by shuffled pixels, gated linear units",
    "points": "the largest features of a cloud of points",
    "example": "PyTorch's example for MNIST, log-softmax at its end",
    "pooled": "attention that pools places, experts with shares",
    "unrolled": "blocks that share their weights, with norms of their own",
    "twins": "a siamese network: one encoder for two images",
    "standardised": "inputs standardised by buffers, a mask of units",
    "price": "a regression that returns a number without an axis",
    "experts": "a mixture of experts, whose results are stacked",
    "shared layers": "ALBERT: one layer of a transformer in all places; an LSTM twice",
    "rezero": "residual branches with a learned factor each",
    "asked": "learned queries and a class token that attend to all places, by `einsum`",
    "written norms": "layer norm, RMS norm and unit lengths, written out",
    "shortcuts": "a ResNet whose shortcuts are zeros for new channels",
    "scalars": "learned terms, shares, temperatures and logarithms of factors",
    "focus": "CBAM: gates of channels, of places, of a whole vector",
}


def _of_torchvision(name: str) -> tuple[Callable[[], nn.Module], tuple[int, ...]]:
    options: dict[str, Any] = {"num_classes": 10}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    side = {"inception_v3": 80, "vit_b_16": 224, "swin_t": 224, "maxvit_t": 224}.get(name, SIDE)
    return lambda: getattr(torchvision.models, name)(weights=None, **options), (3, side, side)


# by what the table calls them: factories, and the shape of one example
KNOWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{DESCRIPTIONS[name]: SMALL[name] for name in SMALL},
    "a transformer's encoder layer": (lambda: nn.TransformerEncoderLayer(8, 2, batch_first=True), (5, 8)),
    "an LSTM with projected states": (lambda: nn.Sequential(nn.LSTM(4, 3, proj_size=2, batch_first=True)), (5, 4)),
    **{f"torchvision `{name}`": _of_torchvision(name) for name in (*QUICK, *OTHERS)},
}
ALWAYS = tuple(name for name in KNOWN if not name.startswith("torchvision") or any(f"`{q}`" in name for q in QUICK))


def row(name: str) -> str:
    """A row of the table: a file of layers, which runs without torch, or of weights alone."""
    make, shape = KNOWN[name]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        network = make()
        try:
            kind, said = "layers", str(len(trace(network, shape).layers))
        except UnstorableError as error:
            kind, said = "weights", _reason(str(error))
    return f"| {name} | {kind} | {said} |\n"


def _reason(sentence: str) -> str:
    """What is not supported, without the list of what is."""
    said = sentence.partition(": supported are")[0].partition(", supported are")[0]
    return said.partition("; it must be")[0].replace("|", "\\|")


def summary(rows: Iterable[str]) -> str:
    """The table of README.md: from rows, the networks of either kind of file."""
    kinds: dict[str, list[str]] = {"layers": [], "weights": []}
    for line in rows:
        name, kind, _ = line.removeprefix("| ").split(" | ", 2)
        kinds[kind].append(name)
    lines = (
        f"| {kind}: {len(names)} of {sum(map(len, kinds.values()))} | {'; '.join(names)} |\n"
        for kind, names in kinds.items()
    )
    return SHORT_HEAD + "".join(lines).replace("torchvision ", "")


if __name__ == "__main__":
    rows = [row(name) for name in KNOWN]
    print(HEAD + "".join(rows) + "\n" + summary(rows), end="")
