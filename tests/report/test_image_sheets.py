"""Images from outputs, and where they stand on a sheet."""

import numpy as np
import pytest

from pyro_compress.errors import DataError
from pyro_compress.report.image_sheets import images_of, sheet


def test_flat_outputs_are_square_images_of_one_channel_or_three() -> None:
    values = np.arange(2 * 75, dtype=np.float32).reshape(2, 75)
    found = images_of(values)
    assert found.shape == (2, 5, 5, 3)
    assert found[1, 2, 3].tolist() == [75 + 13, 75 + 25 + 13, 75 + 50 + 13]
    assert images_of(values[:, :64]).shape == (2, 8, 8, 1)
    assert images_of(values.reshape(2, 3, 1, 25)).shape == (2, 1, 25, 3)


def test_what_is_no_image_is_refused() -> None:
    for shape in ((2, 10), (2, 2, 4, 4), (2,)):
        with pytest.raises(DataError, match="are no images"):
            images_of(np.zeros(shape))


def test_images_stand_row_by_row_with_lines_between_them() -> None:
    images = np.stack([np.full((2, 3, 1), value) for value in (0.0, 0.25, 2.0)])
    drawn = sheet(images, columns=2)
    assert drawn.shape == (5, 7, 1)
    assert drawn[0, 0, 0] == 0 and drawn[1, 4, 0] == 0.25 and drawn[4, 2, 0] == 1
    assert (drawn[2] == 0.5).all() and (drawn[:, 3] == 0.5).all() and (drawn[3:, 4:] == 0.5).all()
