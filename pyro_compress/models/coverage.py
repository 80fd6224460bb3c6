"""How much of a network priors cover, for people: the rest are point estimates."""

from dataclasses import dataclass

from pyro_compress.errors import listed


@dataclass(frozen=True)
class Coverage:
    """Which of a network's numbers have a prior.

    Attributes:
        covered: how many.
        total: of all parameters, frozen ones too.
        points: names of the parameters that no prior covers, frozen ones left out, by how many numbers they have.
        matrices: those of `points` that have two axes or more: weights, and not biases or norms.
    """

    covered: int
    total: int
    points: tuple[str, ...]
    matrices: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of all numbers, from 0 to 1; 1 where there are none."""
        return self.covered / self.total if self.total else 1.0

    def __str__(self) -> str:
        """In one sentence."""
        said = f"priors cover {self.covered:,} of {self.total:,} numbers ({100 * self.share:.1f} %)"
        if not self.points:
            return said
        return f"{said}; the rest are point estimates, rounded and not judged: {listed(self.points)}"
