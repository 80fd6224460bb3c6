"""Figures of codes."""

import numpy as np
import pytest

from pyro_compress.errors import DataError
from pyro_compress.report.code_figures import component_images, latent_plane, principal_plane


def test_more_than_two_numbers_are_seen_along_their_principal_axes() -> None:
    generator = np.random.default_rng(0)
    along = generator.normal(size=(300, 2)) * [3.0, 1.0]
    turned, _ = np.linalg.qr(generator.normal(size=(5, 5)))
    codes = along @ turned[:2] + 7
    places, names = principal_plane(codes)
    wanted = along - along.mean(0)
    # up to the signs of the axes, and the sample's own small turn
    assert np.abs(np.corrcoef(places[:, 0], wanted[:, 0])[0, 1]) > 0.995
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), np.linalg.norm(wanted, axis=1), atol=1e-9)
    assert "(90 % of" in names[0] or "(89 % of" in names[0] or "(91 % of" in names[0]
    assert np.array_equal(principal_plane(along)[0], along)


def test_every_class_has_its_own_points() -> None:
    codes, labels = np.arange(12.0).reshape(6, 2), np.array([0, 1, 1, 2, 2, 2])
    figure = latent_plane(codes, labels, ["a", "b", "c"])
    (axes,) = figure.axes
    drawn = [np.asarray(points.get_offsets()) for points in axes.collections]
    assert [len(points) for points in drawn] == [1, 2, 3] and np.array_equal(drawn[1], codes[1:3])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]


def test_what_is_no_plane_is_refused() -> None:
    with pytest.raises(DataError, match=r"found codes of shape \(6, 1\)"):
        latent_plane(np.zeros((6, 1)), np.zeros(6), ["a"])
    with pytest.raises(DataError, match=r"labels of shape \(5,\)"):
        latent_plane(np.zeros((6, 2)), np.zeros(5), ["a"])


def test_components_are_drawn_as_what_they_change() -> None:
    images, middle = np.arange(12 * 4.0).reshape(12, 2, 2), np.ones((2, 2))
    figure = component_images(images, middle, [str(number) for number in range(12)])
    assert [axes.get_visible() for axes in figure.axes] == [True] * 12 + [False] * 8
    drawn = figure.axes[3].images[0]
    assert np.array_equal(np.asarray(drawn.get_array()), images[3] - 1) and drawn.get_clim() == (-46.0, 46.0)
