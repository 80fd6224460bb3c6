"""Segmentation without a download: two or three of the embedded digits on a noisy canvas, and the class of every pixel.

digit-scenes   canvases (1, 24, 24) with labels (24, 24): 0 for the background, k + 1 where digit k is.  Digits are
               8 × 8, each with its pixels from a quarter of full ink on; none covers another, the noise is uniform
               up to half of full ink, and what is brighter wins.  Each part is made of digits of that part alone:
               2,000 canvases for training, 400 for validation, 800 for test, from seeds of their own.
"""

import torch
from torch import Tensor

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.generators import generator_for
from pyro_compress.data.splits import SPLIT_SEED
from pyro_compress.errors import DataError

SIDE, DIGIT, INK, NOISE = 24, 8, 0.25, 0.5
COUNTS = (2000, 400, 800)
CLASSES = ("background", *(str(digit) for digit in range(10)))


def digit_scenes(digits: DataSet, validation: int | float | None) -> DataSet:
    """Canvases made of a data set of digits.

    Raises:
        DataError: another number of validation canvases is asked for.
    """
    if validation is not None:
        raise DataError("digit-scenes: its parts are fixed: leave out the number of validation examples")
    parts = [digits.part(part) for part in ("train", "validation", "test")]
    made = zip(parts, COUNTS, strict=True)
    train, held, test = (scenes(x, y, count, part) for part, ((x, y), count) in enumerate(made))
    return DataSet("digit-scenes", *train, *held, *test, classes=CLASSES)


def scenes(x: Tensor, y: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Canvases (count, 1, SIDE, SIDE) and labels (count, SIDE, SIDE).

    Args:
        x, y: digits, (examples, 1, DIGIT, DIGIT) from 0 to 1, and which they are.
        count: how many canvases.
        seed: of all that is drawn.
    """
    generator = generator_for(SPLIT_SEED, seed)

    def drawn(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator, device="cpu")

    canvas = NOISE * torch.rand(count, 1, SIDE, SIDE, generator=generator, device="cpu")
    labels = torch.zeros(count, SIDE, SIDE, dtype=torch.int64)
    for scene in range(count):
        free = torch.ones(SIDE - DIGIT + 1, SIDE - DIGIT + 1, dtype=torch.bool)
        for _ in range(2 + int(drawn(2, 1))):
            places = torch.nonzero(free)
            if not len(places):
                break
            down, across = places[int(drawn(len(places), 1))].tolist()
            free[max(0, down - DIGIT + 1) : down + DIGIT, max(0, across - DIGIT + 1) : across + DIGIT] = False
            which = int(drawn(len(x), 1))
            where = (slice(down, down + DIGIT), slice(across, across + DIGIT))
            canvas[scene, 0][where] = torch.maximum(canvas[scene, 0][where], x[which, 0])
            labels[scene][where] = torch.where(x[which, 0] >= INK, y[which] + 1, 0)
    return canvas, labels
