"""What a header says of a tensor: its grid, the settings of its models, its codebook; in both directions."""

from dataclasses import replace
from itertools import accumulate, pairwise

from pyro_compress.artifact.format.coding import LARGEST, TOKENS
from pyro_compress.artifact.format.header import (
    ALL_ZERO,
    CODEBOOK,
    FALL_BITS,
    FLOATS,
    FORM_BITS,
    FORMS,
    GAP_ORDER_BITS,
    INTEGERS,
    KINDS,
    LEAST,
    LEVELS,
    OTHER_FORM,
    SMALL,
    STRENGTH_BITS,
    ZEROS,
    TensorCode,
    role,
)
from pyro_compress.artifact.format.header_bits import BitReader, BitWriter, number_bits
from pyro_compress.artifact.format.pattern import DENSITIES
from pyro_compress.errors import ArtifactError, printable
from pyro_compress.network.quantizers import MOST_LEVELS, STEP_EXPONENTS


class DescriptorReader(BitReader):
    """Reads descriptors one after the other, each of whose steps is told by that of one before."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._steps = {True: 0, False: 0}

    def tensor(self, name: str, numbers: int, *, whole: bool = False, kind: int | None = None) -> TensorCode:
        """A tensor's descriptor; whole numbers stand for themselves, so there is no step.

        Args:
            name, numbers: of the tensor, and how many it has.
            whole: whether it holds whole numbers.
            kind: what the descriptor begins with, if that has been read.
        """
        if kind is None:
            kind = self.within("a tensor's kind", OTHER_FORM, order=LEAST)
        if kind == FLOATS:
            return TensorCode()
        if kind == OTHER_FORM:
            if whole:
                raise ArtifactError(f"tensor {printable(name)} holds whole numbers, which have no step of another form")
            code = self._form()
            kind = self.within("a tensor's kind", CODEBOOK, order=LEAST)
            if kind == FLOATS or (kind == CODEBOOK and code.form == LEVELS):
                raise ArtifactError(
                    f"tensor {printable(name)} is of kind '{KINDS[kind]}', which goes with no other form"
                )
        else:
            code = TensorCode(0 if whole else self._step(name))
        if kind == ZEROS:
            return code
        density = self.within("a tensor's density", DENSITIES - 1, order=SMALL)
        strength = self.bits(STRENGTH_BITS, "a tensor's model")
        top = self.within("a magnitude token", TOKENS - 1, order=SMALL)
        fall = self.bits(FALL_BITS, "a tensor's model") if top else 0
        codebook = self._codebook(name, numbers) if kind == CODEBOOK else ()
        return replace(code, density=density, strength=strength, top_token=top, fall=fall, codebook=codebook)

    def _form(self) -> TensorCode:
        form = self.bits(FORM_BITS, "a tensor's form")
        if form >= len(FORMS):
            raise ArtifactError(f"a tensor has unknown form {form}")
        below, above = (self.within("a codebook", MOST_LEVELS, order=SMALL) if form == LEVELS else 0 for _ in range(2))
        return TensorCode(form=form, sides=(below, above))

    def _step(self, name: str) -> int:
        away = self.within("a tensor's grid step", 2 * len(STEP_EXPONENTS), order=LEAST)
        exponent = self._steps[role(name)] + (-(away + 1) // 2 if away % 2 else away // 2)
        if exponent not in STEP_EXPONENTS:
            raise ArtifactError(f"tensor {printable(name)} has grid step 2**{exponent}, beyond the format's limits")
        self._steps |= {False: exponent, role(name): exponent}
        return exponent

    def _codebook(self, name: str, numbers: int) -> tuple[int, ...]:
        what = "a codebook"
        sides = [self.within(what, MOST_LEVELS, order=SMALL) for _ in range(2)]
        if not 0 < sum(sides) <= numbers:
            raise ArtifactError(f"the codebook of {printable(name)} has {sum(sides)} levels for {numbers} numbers")
        order = self.bits(GAP_ORDER_BITS, what)
        gaps = [[1 + self.within(what, LARGEST, order=order) for _ in range(levels)] for levels in sides]
        below, above = (list(accumulate(side)) for side in gaps)
        if max([*below, *above]) > LARGEST:
            raise ArtifactError(f"the codebook of {printable(name)} holds integers beyond ±{LARGEST}")
        return (*(-level for level in reversed(below)), *above)


class DescriptorWriter(BitWriter):
    """Writes what `DescriptorReader` reads."""

    def __init__(self) -> None:
        super().__init__()
        self._steps = {True: 0, False: 0}

    def tensor(self, name: str, code: TensorCode, *, whole: bool = False) -> None:
        """A tensor's descriptor; of whole numbers, which stand for themselves, there is no step to tell."""
        if code.is_float:
            self.number(FLOATS, LEAST)
            return
        kind = CODEBOOK if code.codebook else ZEROS if code.density == ALL_ZERO else INTEGERS
        if code.form is None:
            self.number(kind, LEAST)
            if not whole:
                self._step(name, code)
        else:
            self.number(OTHER_FORM, LEAST)
            self.bits(code.form, FORM_BITS)
            for side in code.sides if code.form == LEVELS else ():
                self.number(side, SMALL)
            self.number(kind, LEAST)
        if kind == ZEROS:
            return
        self.number(code.density, SMALL)
        self.bits(code.strength, STRENGTH_BITS)
        self.number(code.top_token, SMALL)
        if code.top_token:
            self.bits(code.fall, FALL_BITS)
        if code.codebook:
            self.codebook(code.codebook)

    def _step(self, name: str, code: TensorCode) -> None:
        assert code.step_exponent is not None
        away = code.step_exponent - self._steps[role(name)]
        self.number(2 * away if away >= 0 else -2 * away - 1, LEAST)
        self._steps |= {False: code.step_exponent, role(name): code.step_exponent}

    def codebook(self, codebook: tuple[int, ...]) -> None:
        """How many levels there are on either side of zero, and the gaps between them."""
        gaps = _gaps(codebook)
        every = [gap - 1 for side in gaps for gap in side]
        order = min(range(1 << GAP_ORDER_BITS), key=lambda order: sum(number_bits(gap, order) for gap in every))
        for side in gaps:
            self.number(len(side), SMALL)
        self.bits(order, GAP_ORDER_BITS)
        for gap in every:
            self.number(gap, order)


def codebook_bits(codebook: tuple[int, ...]) -> int:
    """What a codebook adds to the header."""
    writer = DescriptorWriter()
    writer.codebook(codebook)
    return writer.count


def _gaps(codebook: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Distances of the levels from one to the next, outwards from zero: negative ones, positive ones."""
    below, above = [-level for level in reversed(codebook) if level < 0], [level for level in codebook if level > 0]
    return [b - a for a, b in pairwise([0, *below])], [b - a for a, b in pairwise([0, *above])]
