"""Examples changed at random each time that they are trained on: images shifted, turned, scaled, mirrored, partly
blanked, or anything by a transform of the user's own.

The likelihood keeps the N of the images that there are: an epoch is N terms, each at one drawn change, so that what is
descended is the expectation of Σ_i log p(y_i | t(x_i)) over changes t, and not a likelihood of more data.  A posterior
under it is therefore no exact one (Nabarro et al. 2022, Noci et al. 2021), and is not judged as one.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_compress.config.keyword_options import check_options
from pyro_compress.data.generators import generator_for
from pyro_compress.data.transforms import Transform, name_of, transform_of, transformed
from pyro_compress.errors import DataError


@dataclass(frozen=True)
class Augmentation:
    """Independent changes of every example, in this order; what comes into view of an image is 0.

    Args:
        rotate: degrees, the largest turn either way; uniform.
        scale: s, in [0, 1): enlarged by a factor uniform in [1 − s, 1 + s], about the middle.
        shift: pixels, the largest shift along each axis either way; uniform over whole numbers.  With padding of as
            many pixels this is a random crop (Krizhevsky et al. 2012).
        flip: whether half of the images are mirrored left to right.
        cutout: pixels, side of a square of zeros, about a pixel drawn uniformly, beyond the edge too (DeVries &
            Taylor 2017); an even side reaches one pixel further to the upper left.
        transform: of the user's own, from one example (of the data's type and shape) to one of the same: a function,
            or `module:factory` that makes one; such as torchvision's `transforms.v2`.  Called example by example.

    Raises:
        DataError: an option is negative, of another type, or a scale of 1 or more; or the transform is not found.
    """

    rotate: float = 0.0
    scale: float = 0.0
    shift: int = 0
    flip: bool = False
    cutout: int = 0
    transform: Transform | str | None = None

    def __post_init__(self) -> None:
        check_options(self, DataError)
        if min(self.rotate, self.scale, self.shift, self.cutout) < 0:
            raise DataError(f"options of augmentation must not be negative, found {self}")
        if self.scale >= 1 or math.isinf(self.rotate):
            raise DataError(f"scale of augmentation is below 1 and rotate finite, found {self.scale} and {self.rotate}")
        if isinstance(self.transform, str):
            transform_of(self.transform)

    def __bool__(self) -> bool:
        """Whether anything changes."""
        return self != Augmentation()

    def __str__(self) -> str:
        """What changes, for the name of data and for tables."""
        said = {
            "rotate": f"{self.rotate:g}°",
            "scale": f"{self.scale:g}",
            "shift": f"{self.shift} px",
            "flip": "",
            "cutout": f"{self.cutout} px",
            "transform": "" if self.transform is None else name_of(self.transform),
        }
        return ", ".join(f"{name} {text}".rstrip() for name, text in said.items() if getattr(self, name)) or "none"

    def draw(self, images: Tensor, *stream: int) -> Tensor:
        """Images (n, channels, height, width), each changed; depends on these and on the numbers of `stream` alone.

        With a transform alone they may be examples (n, *shape) of any kind.
        """
        generator = generator_for(*stream)
        if self._changes_images:
            images = self._drawn(images, generator)
        if self.transform is not None:
            images = transformed(self.transform, images, int(torch.randint(2**31, (), generator=generator)))
        return images

    @property
    def _changes_images(self) -> bool:
        return bool(self.rotate or self.scale or self.shift or self.flip or self.cutout)

    def _drawn(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape

        def whole(least: int, end: int) -> Tensor:
            return torch.randint(least, end, (count,), generator=generator, device="cpu").to(images.device)

        if self.rotate or self.scale:
            noise = 2 * torch.rand((2, count), generator=generator, dtype=torch.float32, device="cpu") - 1
            noise = noise.to(images.device)
            images = _turned(images, math.radians(self.rotate) * noise[0], 1 + self.scale * noise[1])
        if self.shift:
            down, right = whole(-self.shift, self.shift + 1), whole(-self.shift, self.shift + 1)
            images = _shifted(images, down, right, self.shift)
        if self.flip:
            images = torch.where(whole(0, 2).bool()[:, None, None, None], images.flip(3), images)
        if self.cutout:
            rows = _covered(whole(0, height), height, self.cutout)
            columns = _covered(whole(0, width), width, self.cutout)
            images = images * ~(rows[:, None, :, None] & columns[:, None, None, :])
        return images

    def check(self, examples: Tensor, where: str, positions: tuple[int, ...] = ()) -> None:
        """Refuse what are no images, whose labels would stay where they were, and what the transform does not take.

        Args:
            examples: (n, *shape).
            where: of the sentences.
            positions: shape of one example's labels where there is one per position.

        Raises:
            DataError: says their shape, that a shift leaves nothing in view, or what came of the transform.
        """
        input_shape = tuple(examples.shape[1:])
        if positions and (self.rotate or self.scale or self.shift or self.flip):
            raise DataError(
                f"{where}: every position {positions} has a label, which would not move with the image: leave out "
                "rotate, scale, shift and flip"
            )
        if self._changes_images and len(input_shape) != 3:
            raise DataError(
                f"{where}: augmentation changes images (channels, height, width), and these examples have the shape "
                f"{input_shape}: leave it out, or let the network flatten them"
            )
        if self.shift and self.shift >= min(input_shape[1:]):
            raise DataError(
                f"{where}: a shift of up to {self.shift} pixels leaves nothing of images {input_shape}: give less"
            )
        self.draw(examples[:1], 0)


def _turned(images: Tensor, angle: Tensor, factor: Tensor) -> Tensor:
    """Turned by an angle (n,), counterclockwise, and enlarged by a factor (n,), both about the middle; bilinear."""
    height, width = images.shape[2:]
    # from a place of the result to the one of the image that it shows: turned back, and nearer to the middle
    cos, sin = torch.cos(angle) / factor, torch.sin(angle) / factor
    zero = torch.zeros_like(cos)
    # places are in units of half the width and half the height
    rows = [
        torch.stack([cos, -sin * height / width, zero], 1),
        torch.stack([sin * width / height, cos, zero], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _shifted(images: Tensor, down: Tensor, right: Tensor, most: int) -> Tensor:
    """Moved by whole pixels, (n,) each, at most `most` either way."""
    count, channels, height, width = images.shape
    padded = F.pad(images, (most,) * 4)
    rows = torch.arange(height, device=images.device) + (most - down)[:, None]
    columns = torch.arange(width, device=images.device) + (most - right)[:, None]
    each = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[each, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _covered(middle: Tensor, length: int, side: int) -> Tensor:
    """Which of `length` places a square of that side about `middle` (n,) covers, (n, length)."""
    offset = torch.arange(length, device=middle.device) - middle[:, None] + side // 2
    return (offset >= 0) & (offset < side)
