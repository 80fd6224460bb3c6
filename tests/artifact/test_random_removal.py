"""Structured removal on random layers: whatever is combined with what, the smaller network computes the same."""

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import ChannelAffine, PReLU
from pyro_compress.network.sequence_layers import Embedding
from pyro_compress.network.stored import StoredNetwork, StoredTensor, tensor_shapes
from tests.analysis.decisions.masked_networks import run
from tests.artifact.test_round_trip import layers_on


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_reduced_equals_masked_on_random_layers(drawn: st.DataObject) -> None:
    shape = drawn.draw(st.sampled_from([(6,), (12,), (4, 6, 5), (2, 3, 4), (3, 1, 1)]))
    layers = drawn.draw(layers_on(shape, most=12))
    architecture = Architecture(shape, layers)
    # embeddings take whole numbers, which these inputs are not
    assume(not any(isinstance(layer, ChannelAffine | Embedding) for layer in layers))
    assume(all(0 not in extents for extents in architecture.shapes()))
    random = np.random.default_rng(drawn.draw(st.integers(0, 2**20)))
    slopes = {f"{layer.name}.slope": f"{layer.name}.weight" for layer in layers if isinstance(layer, PReLU)}
    tensors, sites = {}, {}
    for name, extents in tensor_shapes(architecture).items():
        value = random.normal(size=extents).astype(np.float32)
        kept = random.random(extents) < 0.9
        for axis in range(min(2, len(extents))) if len(extents) > 1 else ():
            along = [1] * len(extents)
            along[axis] = -1
            kept &= (random.random(extents[axis]) < 0.6).reshape(along)
        tensors[name] = StoredTensor(floats=value * kept)
        bits = np.where(kept, FLOAT_BITS, 0).astype(np.uint8)
        sites[slopes.get(name, name)] = SiteDecision(value, np.zeros_like(value), bits)
    x = torch.from_numpy(random.normal(size=(3, *shape)))
    expected = run(StoredNetwork(architecture, tensors), x)
    reduced = remove_dead(architecture, Decision(sites))
    found = run(reduced, x)
    # a group of which nothing varies is divided by the root of epsilon, which makes rounding of constants large
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * max(1.0, float(expected.abs().max())))
    sizes = [sum(tensor.dense().size for tensor in network.values()) for network in (reduced.tensors, tensors)]
    biases = sum(tensor.dense().size for name, tensor in reduced.tensors.items() if name.endswith(".bias"))
    assert sizes[0] - biases <= sizes[1]
