"""The numbers that the artists of each figure hold, not only that a file is written."""

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_compress.posterior.error_unit import NATS
from pyro_compress.report import figures
from pyro_compress.report.drawing import weight_image
from pyro_compress.report.figures import RatePoint


def history(epochs: int = 20, **changes: float) -> list[dict[str, float]]:
    """A falling loss with five epochs of KL warm-up; `changes` apply to every epoch."""
    return [
        {
            "epoch": epoch,
            "epochs": epochs,
            "data_nats": -1_000.0 - 20_000 / (epoch + 1),
            "complexity_nats": 500.0 * (epochs - epoch),
            "kl_weight": min(0.2, 0.04 * (epoch + 0.5)),
            "validation_error": 0.02 + 0.1 / (epoch + 1),
            "weights_left_percent": 100.0 / (epoch + 1),
        }
        | changes
        for epoch in range(epochs)
    ]


def line(axes: Axes) -> tuple[np.ndarray, np.ndarray]:
    (drawn,) = axes.get_lines()
    return np.asarray(drawn.get_xdata(), float), np.asarray(drawn.get_ydata(), float)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


# ---- learning curve -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("panel", "key", "factor"),
    [(0, "data_nats", -1), (1, "complexity_nats", 1), (2, "validation_error", 100), (3, "weights_left_percent", 1)],
)
def test_learning_curve_shows_each_quantity_in_its_panel(panel: int, key: str, factor: int) -> None:
    records = history()
    epochs, values = line(figures.learning_curve(records).axes[panel])
    assert epochs.tolist() == list(range(1, 21))
    np.testing.assert_allclose(values, [factor * record[key] for record in records])


def test_warm_up_is_shaded_up_to_the_last_epoch_below_the_final_weight() -> None:
    figure = figures.learning_curve(history())
    for axes in figure.axes:
        (shade,) = axes.patches
        # weights .02, .06, .1, .14, .18 and then .2
        assert shade.get_extents().transformed(axes.transData.inverted()).intervalx.tolist() == pytest.approx(
            [0.5, 5.5]
        )
    assert figure.get_suptitle() == "Learning curve (shaded: the KL weight rises to 0.2)"


def test_a_constant_weight_is_not_shaded() -> None:
    figure = figures.learning_curve(history(kl_weight=1.0))
    assert not any(axes.patches for axes in figure.axes)
    assert figure.get_suptitle() == "Learning curve, KL weight 1"


def test_without_validation_examples_the_panel_says_so() -> None:
    axes = figures.learning_curve(history(validation_error=float("nan"))).axes[2]
    assert [text.get_text() for text in axes.texts] == ["not measured"]


def test_regression_errors_are_not_percent() -> None:
    axes = figures.learning_curve(history(validation_error=3.0), unit=NATS).axes[2]
    assert line(axes)[1].tolist() == [3.0] * 20
    assert axes.get_ylabel().startswith("nats")


def test_quantities_that_can_be_negative_are_not_on_a_log_axis() -> None:
    assert figures.learning_curve(history(data_nats=5.0)).axes[0].get_yscale() == "linear"
    assert figures.learning_curve(history()).axes[0].get_yscale() == "log"


# ---- architecture ---------------------------------------------------------------------------------------------


def test_architecture_bars_are_as_long_as_the_layers() -> None:
    figure = figures.pruned_architecture({"fc1": 784, "fc2": 300}, {"fc1": 311, "fc2": 86})
    (axes,) = figure.axes
    before, after = axes.containers
    assert [bar.get_width() for bar in before] == [784, 300]
    assert [bar.get_width() for bar in after] == [311, 86]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["fc1", "fc2"]
    assert [text.get_text() for text in axes.texts] == ["311 of 784  (40 %)", "86 of 300  (29 %)"]
    assert axes.yaxis_inverted()


# ---- weights --------------------------------------------------------------------------------------------------


def test_a_dense_weight_is_its_own_image() -> None:
    weight = np.array([[1.0, -2.0, 0.0], [0.5, 0.0, -0.25]])
    assert weight_image(weight).tolist() == [[1.0, 2.0, 0.0], [0.5, 0.0, 0.25]]


def test_no_lonely_weight_is_lost_in_a_large_image() -> None:
    weight = np.zeros((900, 30))
    weight[[0, 450, 899], [3, 7, 29]] = [1.0, -2.0, 3.0]
    image = weight_image(weight, most_pixels=100)
    assert image.shape == (100, 30)
    assert sorted(image[image > 0]) == [1.0, 2.0, 3.0]
    assert image[0, 3] == 1.0 and image[50, 7] == 2.0 and image[99, 29] == 3.0


def test_kernels_of_one_input_are_laid_out_row_by_row() -> None:
    weight = np.arange(5 * 4, dtype=float).reshape(5, 1, 2, 2)
    image = weight_image(weight)
    # 2 rows of 3 places, a gap between; the sixth place is empty
    assert image.shape == (2 * 3 - 1, 3 * 3 - 1)
    np.testing.assert_array_equal(image[:2, 3:5], weight[1, 0])
    np.testing.assert_array_equal(image[3:, :2], weight[3, 0])
    assert np.isnan(image[2]).all() and np.isnan(image[:, 2]).all() and np.isnan(image[3:, 6:]).all()


def test_kernels_over_a_series_are_one_row_high() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 5))
    np.testing.assert_array_equal(weight_image(weight), weight_image(weight[:, :, None]))


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (3, 4, 2, 5)])
def test_kernels_of_several_inputs_are_a_table(shape: tuple[int, ...]) -> None:
    weight = np.random.default_rng(0).standard_normal(shape)
    image = weight_image(weight)
    assert image.shape == (3 * 3 - 1, 4 * 6 - 1)
    kernel = weight[3, 1] if shape[0] == 4 else weight[1, 3]
    np.testing.assert_array_equal(image[3:5, 18:23], np.abs(kernel))


def test_weights_before_and_after_share_one_scale_and_zeros_are_white() -> None:
    before = {"a.weight": np.full((3, 5), 2.0), "b.weight": np.ones((2, 3))}
    after = {"a.weight": np.eye(3, 5), "b.weight": np.zeros((2, 3))}
    figure = figures.weight_matrices(before, after)
    images = [axes.get_images()[0] for axes in figure.axes if axes.get_images()]
    assert [np.asarray(image.get_array()).tolist() for image in images] == [
        array.tolist() for name in before for array in (before[name], after[name])
    ]
    assert images[0].get_clim() == images[1].get_clim()
    rgba = images[1].to_rgba(after["a.weight"])
    white = (rgba[..., :3] == 1).all(axis=-1)
    np.testing.assert_array_equal(white, after["a.weight"] == 0)
    assert titles(figure)[:2] == ["before: 100 % of weights not zero", "after: 20 % of weights not zero"]


def test_image_inputs_get_a_map_of_pixel_use() -> None:
    generator = np.random.default_rng(0)
    before = {"fc1.weight": generator.standard_normal((4, 64))}
    mask = np.zeros(64)
    mask[[3, 40]] = 1
    figure = figures.weight_matrices(before, {"fc1.weight": before["fc1.weight"] * mask})
    images = [axes.get_images()[0] for axes in figure.axes if axes.get_images()]
    assert len(images) == 4
    usage = np.asarray(images[3].get_array())
    assert usage.shape == (8, 8)
    np.testing.assert_array_equal(np.flatnonzero(usage), [3, 40])
    assert usage[5, 0] == pytest.approx(np.abs(before["fc1.weight"][:, 40]).sum())
    assert "after: 2 of 64 pixels used" in titles(figure)


# ---- signal to noise ------------------------------------------------------------------------------------------


def stairs(axes: Axes, place: int) -> np.ndarray:
    """Counts of the outline number `place`: 0 pruned, 1 kept."""
    outlines: list[Any] = [patch for patch in axes.patches if not patch.get_fill()]
    return np.asarray(outlines[place].get_data().values)


def test_snr_histogram_counts_every_weight_and_marks_the_cut() -> None:
    snr = np.array([0.0, 0.02, 0.5, 2.0, 30.0, np.inf])
    (axes,) = figures.snr_histogram(snr, snr > 1, cut=1.0).axes
    pruned, kept = stairs(axes, 0), stairs(axes, 1)
    assert pruned.sum() == 3 and kept.sum() == 3
    assert pruned[0] == 1 and kept[-1] == 1  # zero and infinity in the outermost bins
    edges = np.geomspace(1e-3, 1e3, 91)
    assert pruned[np.searchsorted(edges, 0.5) - 1] == 1
    (cut,) = axes.get_lines()
    assert np.asarray(cut.get_xdata()).tolist() == [1.0, 1.0]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "pruned: 3 weights (50 %)",
        "kept: 3 weights (50 %)",
        "cut at 1",
    ]


def test_without_a_cut_on_the_ratio_no_line_is_drawn() -> None:
    (axes,) = figures.snr_histogram(np.array([0.1, 2.0]), np.array([False, True])).axes
    assert not axes.get_lines()


# ---- error against rate ---------------------------------------------------------------------------------------

POINTS = [
    RatePoint("this run", 181.4, 1.72, "file", ours=True),
    RatePoint("Oktay et al.", 124, 1.9, "file"),
    RatePoint("BC-GNJ maximum compression", 58, 1.8, "formula"),
    RatePoint("BC-GNJ pruning", 9, 1.8, "pruning"),
]


def test_kinds_of_rate_never_share_a_panel() -> None:
    figure = figures.error_against_rate(POINTS)
    drawn = {
        axes.get_title(loc="left"): sorted(float(np.asarray(point.get_xdata())[0]) for point in axes.get_lines())
        for axes in figure.axes
    }
    assert drawn == {
        "Files (measured)": [124.0, 181.4],
        "Formulas (estimates of bits)": [58.0],
        "Counts of weights": [9.0],
    }


def test_ours_is_a_filled_star_and_published_figures_keep_their_names() -> None:
    axes = figures.error_against_rate(POINTS).axes[0]
    ours, published = axes.get_lines()
    assert (ours.get_marker(), ours.get_fillstyle()) == ("*", "full")
    assert published.get_marker() != "*" and published.get_fillstyle() == "none"
    assert [str(point.get_label()) for point in (ours, published)] == [
        "this run: 181.4×, 1.72 %",
        "Oktay et al.: 124×, 1.90 %",
    ]
    assert np.asarray(ours.get_ydata()).tolist() == [1.72]


def test_only_kinds_that_occur_have_a_panel() -> None:
    assert titles(figures.error_against_rate(POINTS[:2])) == ["Files (measured)"]


def test_the_curve_of_a_sampler_speaks_of_its_log_joint() -> None:
    records = [{**record, "objective_name": "log joint", "round_name": "transitions"} for record in history()]
    figure = figures.learning_curve(records)
    assert titles(figure)[:2] == ["Data misfit, −ln p(y | w)", "Complexity, −ln p(w)"]
    assert figure.axes[2].get_xlabel() == "transitions"
    assert not any(axes.patches for axes in figure.axes)
