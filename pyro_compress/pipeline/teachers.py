"""Teachers: what they are, and what they hand over to a student of the same training examples.

A teacher is asked about every training example, and about nothing else: it sees no label of the student's, and neither
inputs nor labels of what is held out.  It is asked once, or where inputs are drawn anew in every batch, as augmentation
and dynamic binarisation do, about each batch as the student sees it (`data.asking`).  What it was itself fitted to is
another matter.  A run of this package on the same data held out the same validation examples
(`data.splits.SPLIT_SEED`); of modules and files nobody knows.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pyro_compress.artifact.writing.artifact import EXTENSION, Artifact
from pyro_compress.artifact.writing.artifact import load as load_artifact
from pyro_compress.data.asking import asked
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.data.generators import seed_of
from pyro_compress.data.sources import Examples
from pyro_compress.data.splits import EXAMPLES_PER_PASS
from pyro_compress.data.untouched import Untouched
from pyro_compress.errors import DataError, NetworkError, RunError
from pyro_compress.files import write_atomically
from pyro_compress.inference.loop.processes import Ranks
from pyro_compress.inference.results.predictive import hidden_mean, posterior_predictive
from pyro_compress.models import networks, zoo
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.module_calls import with_output_of
from pyro_compress.models.probing import first_line
from pyro_compress.models.teaching import are_probabilities
from pyro_compress.pipeline.run_directory import RunDirectory
from pyro_compress.pipeline.settings import RunSettings
from pyro_compress.pipeline.starting import fitted_network
from pyro_compress.posterior.posterior import Posterior

Fitted: TypeAlias = tuple[BayesianNetwork, Posterior]
# of inputs and a seed
_Outputs: TypeAlias = Callable[[Tensor, int], Tensor]
Teacher: TypeAlias = nn.Module | Artifact | str | Path | Tensor | np.ndarray | Fitted

# of a posterior that is asked once, and in every batch
DRAWS, DRAWS_PER_BATCH = 100, 1
# training examples, as they are, that a teacher which is asked in every batch is known again by
_KNOWN_BY = 16
FORMS = "a .pyrc file, a run directory, module:factory (with +FILE for its weights), or a zoo entry"
# of logarithms of means: where all draws say zero, a finite logit says nearly so
_LEAST_MEAN = 1e-300


def with_teacher(
    data: DataSet | Examples,
    teacher: Teacher,
    model: BayesianNetwork,
    *,
    hidden: str | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> DataSet:
    """The data with a teacher's outputs on the training examples, as `model` takes them: for `fit`, and for `decide`.

    Where these are augmented, or binarised dynamically, the data come with the teacher itself, which is asked about
    each batch as it was drawn.

    With `temperature` in the model outputs are handed over, logits z(x) of a network and ln E[p(y | x, w)] of a
    posterior (Bayesian dark knowledge, Korattikara et al. 2015); without it means, softmax z(x) and E[p(y | x, w)].

    Args:
        data: anything that `as_data` takes.
        teacher: a module, which is copied, put into evaluation mode and may return logits or class probabilities; a
            compressed file, as an Artifact or a path; a pair (BayesianNetwork, Posterior), or a run directory, whose
            predictive mean it is; 'module:factory' or 'module:factory+weights'; or its outputs themselves, an array of
            a row per training example, in the model's form, where these stay as they are.
        model: the student.
        hidden: dotted name of the teacher's module that hands over its outputs, such as an encoder its codes; of a
            posterior their mean.  The teacher's own if not given.
        draws, seed: of a posterior that teaches; 100 that are asked once, or one, another for each batch, so that what
            it hands over has their mean for its expectation.

    Raises:
        DataError: the teacher does not take these inputs, or its outputs do not go with the student's.
        RunError, NetworkError, ArtifactError: there is no such teacher.
    """
    data = as_data(data)
    if isinstance(teacher, Tensor | np.ndarray):
        if hidden is not None:
            raise DataError(f"hidden='{hidden}' names a module of a teacher, and an array has none: leave it out")
        return _with_outputs(torch.as_tensor(teacher), data, model)
    if draws is None:
        draws = DRAWS_PER_BATCH if data.drawn_anew else DRAWS
    ask = _asking(teacher, data, model, hidden, draws)
    if not data.drawn_anew:
        return _with_outputs(ask(data.train_x, seed), data, model)

    def ask_in_batch(x: Tensor, *stream: int) -> Tensor:
        return ask(x, seed_of(seed, *stream))

    _check(ask_in_batch(data.train_x[:2], 0), data, model)
    return data.taught_by(ask_in_batch)


def _with_outputs(found: Tensor, data: DataSet, model: BayesianNetwork) -> DataSet:
    if found.shape[:1] != data.train_x.shape[:1]:
        raise DataError(
            f"{data.name}: the teacher's outputs have the shape {tuple(found.shape)}, expected a row for each of the "
            f"{len(data.train_x):,} training examples; examples that are held out have none"
        )
    _check(found, data, model)
    return data.taught(found)


def _check(found: Tensor, data: DataSet, model: BayesianNetwork) -> None:
    """Hold a teacher's outputs, of any examples, against the student's."""
    network, x = copy.deepcopy(model).eval(), data.train_x[:2]
    with torch.no_grad():
        values = {name: value.to(x.device) for name, value in network.network.named_parameters()}
        _, taught = network.outputs(values, x.clone())
    model.teaching.check(model.likelihood, taught, found, data.name)


def teacher_named(word: str) -> Teacher:
    """The teacher that a word of the command line names, one of `FORMS` but the last.

    Raises:
        RunError: it names none of them.
        NetworkError, ArtifactError: the module or the file is no teacher.
    """
    if Path(word).is_dir():
        run = RunDirectory(Path(word))
        RunSettings.load(run.settings)
        if not run.posterior.exists():
            raise RunError(f"--teacher {word}: the run has no {run.posterior.name} yet: finish its fit first")
        return word
    if word.endswith(EXTENSION):
        return load_artifact(word)
    if ":" in word:
        reference, _, weights = word.partition("+")
        network = networks.load_network(reference, "--teacher")
        if weights:
            networks.load_weights(network, Path(weights))
        return network
    raise RunError(f"--teacher takes {FORMS}; found '{word}', which is no folder and no zoo entry")


def taught(
    run: RunDirectory, settings: RunSettings, data: DataSet, teacher: Teacher | None, model: BayesianNetwork
) -> DataSet:
    """The run's data with the teacher's outputs, which are read from disk where they have been written before.

    A teacher that is asked in every batch is held against what is there: a few outputs of its own.

    Args:
        run, settings, data: of the run.
        teacher: asked if there are none yet; None where there have to be.
        model: the run's student.

    Raises:
        RunError: there are none, or the teacher is another than that of the fit.
    """
    ranks = Ranks.here()
    known = ranks.from_first(run.teacher.exists)
    if not known and teacher is None:
        raise RunError(f"{run.path} has no {run.teacher.name}: start its fit again with `pyro-compress fit`")
    if data.drawn_anew:
        named = teacher_of_run(run, settings) if teacher is None else teacher
        given = with_teacher(data, named, model, seed=settings.seed)
        assert given.ask is not None
        said = asked(given.ask, data.train_x[:_KNOWN_BY], 0).cpu()
        if not known:
            _write(run, ranks, said)
        elif not torch.allclose(said, load_file(run.teacher)["outputs"], rtol=1e-3, atol=1e-3):
            raise RunError(
                f"{run.path}: the teacher {settings.teacher} says something else of the first {len(said)} training "
                "examples than when this run was fitted: put the one of then in its place, or fit again"
            )
        return given
    if not known:
        assert teacher is not None
        found = with_teacher(data, teacher, model, seed=settings.seed) if ranks.first else data
        _write(run, ranks, found.train_teacher)
    return data.taught(load_file(run.teacher)["outputs"])


def teacher_of_run(run: RunDirectory, settings: RunSettings) -> Teacher:
    """The teacher that the settings name, that of a zoo entry once it has been fitted.

    Raises:
        RunError, NetworkError, ArtifactError: as of `teacher_named`.
    """
    assert settings.teacher is not None
    return teacher_named(str(run.teacher_run.path) if settings.teacher in zoo.entries() else settings.teacher)


def _write(run: RunDirectory, ranks: Ranks, outputs: Tensor | None) -> None:
    if ranks.first:
        assert outputs is not None
        write_atomically(run.teacher, save({"outputs": outputs.contiguous()}))
    ranks.wait()


def _asking(teacher: Teacher, data: DataSet, model: BayesianNetwork, hidden: str | None, draws: int) -> _Outputs:
    """What a teacher that computes says of inputs like the data's, in the model's form."""
    if isinstance(teacher, str | Path):
        word = str(teacher)
        found = _of_run(RunDirectory(Path(word)), data) if Path(word).is_dir() else teacher_named(word)
        return _asking(found, data, model, hidden, draws)
    if isinstance(teacher, Artifact):
        return _of_module(teacher.to_torch(), data, model, hidden)
    if isinstance(teacher, nn.Module) and not isinstance(teacher, BayesianNetwork):
        return _of_module(teacher, data, model, hidden)
    if isinstance(teacher, tuple) and [type(part) for part in teacher] == [BayesianNetwork, Posterior]:
        return _of_posterior(teacher, data, model, hidden, draws)
    if isinstance(teacher, BayesianNetwork):
        raise DataError("a BayesianNetwork teaches with its posterior: give the pair (model, posterior)")
    raise DataError(
        "a teacher is a module, a compressed file, a pair (BayesianNetwork, Posterior), an array of outputs, or a "
        f"path; found a {type(teacher).__name__}"
    )


def _of_module(module: nn.Module, data: DataSet, model: BayesianNetwork, hidden: str | None) -> _Outputs:
    network, untouched = copy.deepcopy(module).eval(), Untouched("the teacher")
    likelihood, hint = model.likelihood, model.teaching.hint

    def output(x: Tensor) -> Tensor:
        return network(x) if hidden is None else with_output_of(network, hidden, lambda: network(x))[1]

    def ask(x: Tensor, seed: int) -> Tensor:
        network.to(x.device)
        try:
            with torch.no_grad():
                found = torch.cat([untouched(output, part).cpu().double() for part in x.split(EXAMPLES_PER_PASS)])
        except NetworkError:
            raise
        except Exception as error:
            raise _refused(data, error) from error
        if isinstance(likelihood, Categorical) and hint is None and are_probabilities(found, likelihood.axis_of(found)):
            return _in_form(found, model)
        return found if model.teaching.takes_outputs else likelihood.mean(found)

    return ask


def _of_posterior(fitted: Fitted, data: DataSet, model: BayesianNetwork, hidden: str | None, draws: int) -> _Outputs:
    teacher, posterior = fitted

    def ask(x: Tensor, seed: int) -> Tensor:
        how: dict[str, Any] = {"draws": draws, "seed": seed}
        try:
            if hidden is not None:
                found = hidden_mean(teacher, posterior, x, hidden, **how)
                return found if model.teaching.takes_outputs else model.likelihood.mean(found)
            mean = posterior_predictive(teacher, posterior, x, **how).mean
        except RuntimeError as error:
            raise _refused(data, error) from error
        return _in_form(torch.from_numpy(mean), model)

    return ask


def _refused(data: DataSet, error: Exception) -> DataError:
    return DataError(
        f"{data.name}: the teacher does not take examples of shape {data.input_shape}: {first_line(error)}"
    )


def _in_form(mean: Tensor, model: BayesianNetwork) -> Tensor:
    """Means, or outputs that have them."""
    if not model.teaching.takes_outputs:
        return mean
    if isinstance(model.likelihood, Categorical):
        mean = mean.clamp(min=_LEAST_MEAN)
    return model.likelihood.link(mean)


def _of_run(run: RunDirectory, data: DataSet) -> Fitted:
    settings = RunSettings.load(run.settings)
    # its network is built for the data that it was fitted to, which have this run's shapes or are of no use
    model = BayesianNetwork(fitted_network(run, settings, data), settings.build_prior(), settings.build_likelihood())
    return model, Posterior.load(run.posterior)
