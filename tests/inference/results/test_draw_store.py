"""Where draws are put: memory or disk, the same numbers, and the same again after a restart."""

from pathlib import Path

import numpy as np
import pytest

from pyro_compress.errors import InferenceError
from pyro_compress.inference.results.draw_store import DrawStore
from pyro_compress.posterior.draws import Draws

SHAPES = {"a": (2,), "b": ()}


def store(limit_bytes: int = 2**20) -> DrawStore:
    return DrawStore(2, 5, SHAPES, ("lp",), limit_bytes=limit_bytes, derived=("b",))


def fill(target: DrawStore, count: int, start: int = 0) -> None:
    for draw in range(start, start + count):
        target.add(np.arange(6.0).reshape(2, 3) + 10 * draw, {"lp": np.array([draw, -draw])})


def test_draws_above_the_limit_lie_on_disk_and_are_the_same() -> None:
    inside, outside = store(), store(limit_bytes=10)
    for each in (inside, outside):
        fill(each, 3)
    assert not isinstance(inside.flat, np.memmap)
    assert isinstance(outside.flat, np.memmap)
    folder = Path(str(outside.flat.filename)).parent
    np.testing.assert_array_equal(inside.draws().flat, outside.draws().flat)
    assert inside.draws().site("a")[1, 2].tolist() == [23.0, 24.0]
    assert inside.draws().statistics["lp"].tolist() == [[0, 1, 2], [0, -1, -2]]
    assert inside.draws().derived == ("b",)
    draws = outside.draws()
    del outside, each
    assert draws.flat[1, 2, 0] == 23.0 and folder.exists()
    del draws
    assert not folder.exists()


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_restart_goes_on_from_what_was_captured(on_disk: bool, tmp_path: Path) -> None:
    first, whole = store(), store()
    if on_disk:
        first.keep_in(tmp_path / "draws")
    fill(whole, 5)
    fill(first, 2)
    captured = first.capture()
    assert ("flat" in captured) is not on_disk  # a checkpoint does not repeat what a file keeps
    fill(first, 1, start=7)  # after the checkpoint, lost with the kill
    second = store()
    if on_disk:
        second.keep_in(tmp_path / "draws")
    second.restore(captured)
    fill(second, 3, start=2)
    np.testing.assert_array_equal(second.draws().flat, whole.draws().flat)
    np.testing.assert_array_equal(second.draws().statistics["lp"], whole.draws().statistics["lp"])


def test_draws_that_are_gone_are_missed(tmp_path: Path) -> None:
    first = store()
    first.keep_in(tmp_path / "draws")
    fill(first, 2)
    captured = first.capture()
    second = store()
    second.keep_in(tmp_path / "elsewhere")
    with pytest.raises(InferenceError, match="held this run's draws and is gone"):
        second.restore(captured)
    other = DrawStore(2, 6, SHAPES, ("lp",), limit_bytes=2**20)
    other.keep_in(tmp_path / "draws")
    with pytest.raises(InferenceError, match=r"draws\.npy holds draws of another run: start this one afresh"):
        other.restore(captured)
    with pytest.raises(InferenceError, match="say where they go before the first one"):
        first.keep_in(tmp_path)


def test_double_precision_is_stored_on_disk_and_read_back(tmp_path: Path) -> None:
    store = DrawStore(1, 2, {"x": ()}, (), limit_bytes=2**20, dtype=np.float64, fixed={"x": (0,)})
    store.keep_in(tmp_path)
    store.add(np.array([[1e5 + 1e-9]]), {})
    assert store.draws().flat.dtype == np.float64
    store.draws().save(tmp_path)
    read = Draws.load(tmp_path)
    assert read.site("x")[0, 0] == 1e5 + 1e-9 and read.fixed == {"x": (0,)}
