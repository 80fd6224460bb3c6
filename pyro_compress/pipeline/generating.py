"""Images of a decoder: from codes of p(z), and of examples by the codes that an encoder gives them."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.artifact.writing.artifact import load as load_artifact
from pyro_compress.errors import DataError, RunError
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.likelihoods import LIKELIHOODS, Likelihood
from pyro_compress.report.image_sheets import images_of, sheet_figure

COLUMNS, ROWS = 10, 10
PAIRS = 5


def generate(
    artifact: Artifact | str | Path, count: int, *, likelihood: Likelihood | str = "bernoulli", seed: int = 0
) -> np.ndarray:
    """E[x | z] of codes z ~ p(z), (count, *output shape), by the numpy runtime: what `pyro-compress generate` draws.

    Args:
        artifact: what `compress` returned of an autoencoder, or the path of a .pyrc file.
        count: of codes.
        likelihood: p(x | output), or its name; the file does not say what its outputs mean.
        seed: of the codes.

    Raises:
        ArtifactError: the file is missing or damaged.
        RunError: it holds no decoder.
    """
    where = "the artifact" if isinstance(artifact, Artifact) else str(artifact)
    network = (artifact if isinstance(artifact, Artifact) else load_artifact(artifact)).network
    code, shape = network.architecture.code, network.architecture.input_shape
    if code is None:
        raise RunError(
            f"{where} is no decoder: it says of no code that its input of shape {shape} is one; `evaluate` runs it on "
            "examples"
        )
    return _means(forward(network)(code.draw(shape[0], count, np.random.default_rng(seed))), likelihood)


def figures_of_decoder(
    artifact: Artifact, network: EncoderDecoder, likelihood: Likelihood, x: Tensor
) -> dict[str, Figure]:
    """Samples, reconstructions, and what lies between two examples, all by the decoder of the file.

    Args:
        artifact: the file.
        network: whose encoder gives codes.
        likelihood: p(x | output).
        x: examples that the fit has not seen.

    Returns:
        Figures by the name of their file; none where examples are no images or the file knows of no code.
    """
    try:
        samples = images_of(generate(artifact, ROWS * COLUMNS, likelihood=likelihood))
    except (DataError, RunError):
        return {}
    decode, x = forward(artifact.network), x[: ROWS * PAIRS]
    with torch.no_grad():
        z = network.codes.mean(network.encoder(x)).cpu().numpy()
    means = _means(decode(z), likelihood)
    originals, rebuilt = images_of(x.cpu().numpy().reshape(means.shape)), images_of(means)
    steps = np.linspace(0, 1, COLUMNS, dtype=np.float32)[:, None]
    between = np.concatenate([(1 - steps) * z[2 * row] + steps * z[2 * row + 1] for row in range(len(z) // 4)])
    return {
        "samples": sheet_figure(
            "Samples of the decoded file", [(f"means given {artifact.network.architecture.code}", samples, COLUMNS)]
        ),
        "reconstructions": sheet_figure(
            "Reconstructions of test examples",
            [("examples", originals, PAIRS), ("by the decoded file", rebuilt, PAIRS)],
        ),
        "interpolations": sheet_figure(
            "From one test example to another",
            [("by the decoded file, codes on a line", images_of(_means(decode(between), likelihood)), COLUMNS)],
        ),
    }


def _means(outputs: np.ndarray, likelihood: Likelihood | str) -> np.ndarray:
    chosen = LIKELIHOODS.build(likelihood) if isinstance(likelihood, str) else likelihood
    return chosen.mean(torch.from_numpy(outputs)).numpy()
