"""What a file says of itself: it costs its length, changes nothing of the network, and is gone without a trace."""

from pathlib import Path

import numpy as np
import pytest

import pyro_compress as pc
from pyro_compress.artifact.format.decode import decode
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.errors import ArtifactError
from tests.artifact import networks, specified, weights

SAID = {"classes": ["Katze", "Hündin"], "normalisation": {"mean": [0.5], "std": [0.25]}, "licence": "MIT"}


@pytest.fixture(params=["runnable", "weights"])
def artifact(request: pytest.FixtureRequest) -> Artifact:
    return Artifact.of(networks.dense() if request.param == "runnable" else weights.every_form())


def test_metadata_come_back_and_cost_their_length(artifact: Artifact) -> None:
    assert artifact.metadata == {}
    noted = artifact.with_metadata(SAID)
    assert pc.load(noted.data).metadata == SAID
    text = '{"classes":["Katze","Hündin"],"normalisation":{"mean":[0.5],"std":[0.25]},"licence":"MIT"}'
    assert len(noted) == len(artifact) + 1 + len(text.encode())
    assert noted.data[:-4].endswith(text.encode())
    assert noted.with_metadata({}).data == artifact.data
    sections = {section.name: section.file_bytes for section in noted.sections()}
    assert sections.pop("metadata") == 1 + len(text.encode())
    assert sections == pytest.approx({section.name: section.file_bytes for section in artifact.sections()})


def test_both_readers_find_the_same_network() -> None:
    noted = Artifact.of(networks.dense()).with_metadata(SAID).data
    found, own = specified.decode(noted), decode(noted)
    for name, tensor in own.tensors.items():
        np.testing.assert_array_equal(found.tensors[name].numbers, tensor.dense())


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"a": float("nan")}, "a note holds what JSON can say"),
        ({"a": {1, 2}}, "a note holds what JSON can say"),
        ({"a": (1, 2)}, "a note holds what JSON gives back as it was"),
        ({"a": "x" * 2**16}, r"at most 65,536 bytes, and this one 65,544"),
    ],
)
def test_what_cannot_be_said(entries: dict[str, object], sentence: str) -> None:
    with pytest.raises(ArtifactError, match=sentence):
        Artifact.of(networks.dense()).with_metadata(entries)


def test_folders_of_one_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds 0 files that end in \.pyrc: name one of them"):
        pc.load(tmp_path)
    made = Artifact.of(networks.dense())
    made.save(tmp_path / "network.pyrc")
    assert Artifact.from_pretrained(tmp_path).data == pc.load(tmp_path).data == made.data
    made.save(tmp_path / "another.pyrc")
    with pytest.raises(ArtifactError, match="holds 2 files"):
        pc.load(tmp_path)
