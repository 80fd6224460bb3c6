"""`pyro-compress annotate`: metadata of a file, changed in its place, or one sentence."""

from pathlib import Path

import pyro_compress as pc
from pyro_compress.artifact.writing.artifact import Artifact
from tests.artifact import networks
from tests.pipeline.conftest import Cli


def test_annotate(tmp_path: Path, cli: Cli) -> None:
    path = Artifact.of(networks.dense()).save(tmp_path / "network.pyrc")
    before = path.read_bytes()
    called = cli("annotate", path, 'classes=["cat", "dog"]', "licence=MIT", "epochs=5")
    assert (called.code, called.out) == (0, f"{path}: {path.stat().st_size:,} bytes, {len(before):,} before\n")
    assert pc.load(path).metadata == {"classes": ["cat", "dog"], "licence": "MIT", "epochs": 5}
    assert 'classes: ["cat", "dog"]\n' in cli("inspect", path).out
    noted = path.read_bytes()
    for words, sentence in (
        (["licence"], "metadata are given as NAME=VALUE, 'licence' is not"),
        (["author="], "says nothing of 'author' that could be removed: it has classes, licence, epochs"),
    ):
        called = cli("annotate", path, *words)
        assert called.code == 1 and sentence in called.err
    assert cli("annotate", "lenet-5/log-uniform", "a=1").err.rstrip().endswith("copy it, and annotate the copy")
    assert path.read_bytes() == noted
    assert cli("annotate", path, "classes=", "licence=", "epochs=").code == 0
    assert path.read_bytes() == before


def test_help_says_how_to_remove(cli: Cli) -> None:
    assert "NAME= removes" in " ".join(cli("annotate", "--help").out.replace("│", " ").split())
