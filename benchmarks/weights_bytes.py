"""Files of weights beside runnable files of the same numbers, and beside general compressors.

    python -m benchmarks.weights_bytes

Each shipped network becomes float32 tensors, of the original width where a selection left inputs of a layer out, and is
packed as `pc.pack` does with anybody's.  zstd and xz are given the integers as int8 (int16, int32 if they must), which
`pack` had to find first, and neither names, shapes nor steps.
"""

import lzma

import numpy as np

import pyro_compress as pc
from pyro_compress import shipped
from pyro_compress.network.layers import Linear, Select
from pyro_compress.network.stored import StoredNetwork
from pyro_compress.network.stored_weights import StoredWeights


def of_original_width(network: StoredNetwork) -> dict[str, np.ndarray]:
    """The tensors, with columns of zeros where a selection left inputs of a dense layer out."""
    found, layers = {name: tensor.dense() for name, tensor in network.tensors.items()}, network.architecture.layers
    for layer, behind, shape in zip(layers, layers[1:], network.architecture.shapes(), strict=False):
        if isinstance(layer, Select) and isinstance(behind, Linear):
            whole = np.zeros((behind.out_features, shape[0]), np.float32)
            whole[:, list(layer.indices)] = found[f"{behind.name}.weight"]
            found[f"{behind.name}.weight"] = whole
    return found


def integer_bytes(weights: StoredWeights) -> bytes:
    """All tensors, integers in the smallest type that holds a tensor's."""
    content = b""
    for _, tensor in weights.single():
        if tensor.integers is None:
            content += tensor.numbers().tobytes()
            continue
        largest = int(np.abs(tensor.integers).max(initial=0))
        kind = np.int8 if largest < 128 else np.int16 if largest < 2**15 else np.int32
        content += tensor.integers.astype(kind).tobytes()
    return content


def main() -> None:
    """Print a table."""
    # an extra of its own, which who imports the other functions may lack
    import zstandard

    print("| network | runnable | weights | rate | names | int8 + zstd -19 | int8 + xz -9e |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in shipped.names():
        runnable = pc.load(name)
        artifact = pc.pack(of_original_width(runnable.network))
        assert isinstance(artifact.held, StoredWeights)
        unnamed = StoredWeights({str(i): tensor for i, tensor in enumerate(artifact.held.tensors.values())})
        content = integer_bytes(artifact.held)
        zstd, xz = zstandard.compress(content, 19), lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
        sizes = f"{len(runnable):,} | {len(artifact):,} | {len(artifact) / len(runnable):.3f}"
        names = len(artifact) - len(pc.Artifact.of(unnamed))
        print(f"| {name} | {sizes} | {names} | {len(zstd):,} | {len(xz):,} |")


if __name__ == "__main__":
    main()
