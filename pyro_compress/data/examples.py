"""The user's own examples as a `DataSet`: tensors, arrays, a Dataset or a DataLoader."""

import os
from numbers import Real

import torch

from pyro_compress.config.keyword_options import whole_number
from pyro_compress.data.dataset import DataSet, refuse_non_finite
from pyro_compress.data.on_disk import rows_of
from pyro_compress.data.sources import Examples, class_names, count_among, pair_of, read_examples
from pyro_compress.data.splits import SPLIT_SEED, count_held_out, split_without_copies
from pyro_compress.errors import DataError, warn


def as_data(
    train: DataSet | Examples,
    *,
    validation: Examples | int | float | None = None,
    test: Examples | None = None,
    N: int | None = None,
    name: str | None = None,
    classes: tuple[str, ...] | list[str] | int | None = None,
    split_seed: int | None = None,
    partly_labelled: bool = False,
    on_disk: str | os.PathLike[str] | None = None,
) -> DataSet:
    """A `DataSet` of the user's own tensors, arrays, Dataset or DataLoader, read into memory once.

    `validation` is examples, or a number or share (0..1) of the training examples to hold out at random,
    stratified by class.  `N` is the size of the whole training set where `train` (after the split) is only
    a sample of it.  Integer targets are class labels (`classes`: names or their number, by default one more
    than the largest label), real ones are regression targets.  Inputs of the type int64 are tokens and stay so; others
    become float32 as they are, without scaling.
    A DataLoader that shuffles is read in the order of its Dataset, and so is one that repeats examples, each once.
    Copies, examples of the same input and target, are held out or trained on together; where too few different ones
    are left for that, or the parts that were given share examples, a warning says how many.  A DataSet is returned
    unchanged.  A third tensor in `train` is a teacher's outputs, such as class probabilities; those of examples that
    are held out are left out.  With `partly_labelled` a training label of -1 is one that is missing, and validation
    examples, whose labels are known, come with the data.
    `on_disk` is a folder for examples that memory does not hold: they are read batch by batch into files there, which
    have no names and are gone with the data, and batches are read from these.  The disk holds the training examples
    twice while `validation` of them are held out.
    """
    if isinstance(train, DataSet):
        if any(given is not None for given in (validation, test, N, name, classes, split_seed, on_disk)):
            raise DataError(
                f"{train.name}: a DataSet holds its own parts: give validation, test, N, name, classes, split_seed and "
                "on_disk to it"
            )
        if partly_labelled and not train.partly_labelled:
            raise DataError(
                f"{train.name}: a DataSet says itself whether labels are missing, and in this one all are known: give "
                "partly_labelled=True where it is made, or take labels away by with_labels(...)"
            )
        return train
    name = "user data" if name is None else name
    split_seed = SPLIT_SEED if split_seed is None else split_seed
    N = None if N is None else whole_number(N, f"{name}: N", DataError, least=1)
    x, y, *rest = read_examples(train, f"{name}: train", most=3, on_disk=on_disk)
    teacher = rest[0].to(torch.float32) if rest else None
    empty = (x[:0], y[:0])
    held_out = empty
    if isinstance(validation, Real):
        if partly_labelled:
            raise DataError(
                f"{name}: examples to hold out must have labels, of which these lack some: give validation=(x, y)"
            )
        # here an index is still that of the user's own array
        refuse_non_finite(x, f"{name}: train: inputs")
        refuse_non_finite(y, f"{name}: train: targets")
        left, part = split_without_copies(x, y, count_held_out(validation, len(y), name), split_seed)
        (x, y), held_out = (rows_of(x, left, on_disk), y[left]), (rows_of(x, part, on_disk), y[part])
        teacher = None if teacher is None else rows_of(teacher, left, on_disk)
    elif validation is not None:
        held_out = pair_of(validation, f"{name}: validation", on_disk)
    tested = empty if test is None else pair_of(test, f"{name}: test", on_disk)
    for kind, examples in (("validation", held_out), ("test", tested)):
        shared = count_among(examples, (x, y)) if len(examples[0]) else 0
        if shared:
            warn(
                f"{name}: {shared:,} of {len(examples[0]):,} {kind} examples are training examples too (the same input "
                "and target): what is measured on them is too good; leave the copies out of one of the two"
            )
    names = class_names(classes, y, held_out[1], tested[1])
    return DataSet(
        name,
        *(x, y, *held_out, *tested),
        classes=names,
        size=N,
        train_teacher=teacher,
        partly_labelled=partly_labelled,
    )
