"""Arguments and options that more than one command takes."""

from pathlib import Path
from typing import Annotated

import typer

EntryArgument = Annotated[str | None, typer.Argument(help="Zoo entry, e.g. lenet-300-100/group-horseshoe.")]
NetworkOption = Annotated[str | None, typer.Option("--network", help="Registered network, or module:factory.")]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="Parameters to start from: .safetensors, a torch state dict, or a run directory: what its file stores.",
    ),
]
PriorOption = Annotated[str | None, typer.Option("--prior", help="Registered prior, or none.")]
MethodOption = Annotated[
    str | None, typer.Option("--inference", help="Inference method: svi, map, sgld, nuts, ...; a wrong one lists all.")
]
LikelihoodOption = Annotated[
    str | None,
    typer.Option("--likelihood", help="categorical, gaussian, bernoulli, ...; a wrong one lists all."),
]
KindOption = Annotated[
    str | None,
    typer.Option(
        "--kind",
        help="Of the file: runnable, with layers, or weights, which go into the network's module; automatic if not "
        "given: weights where the network cannot be traced.",
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data", help="digits, mnist, …, a .npz file of arrays, or module:factory; by default the network's usual."
    ),
]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Where data files lie; PYRO_COMPRESS_DATA if not given.")
]
ExamplesOption = Annotated[
    int | None,
    typer.Option(
        "--examples", help="Training examples that are taken, each class its share; all if not given. N counts these."
    ),
]
BinarisationOption = Annotated[
    str | None,
    typer.Option(
        "--binarisation",
        help="Of an autoencoder's images: static draws each pixel once, dynamic anew whenever the fit sees it.",
    ),
]
EpochsOption = Annotated[int | None, typer.Option("--epochs", min=1, help="Passes of posterior fitting.")]
PretrainOption = Annotated[
    int | None, typer.Option("--pretrain-epochs", min=0, help="Passes of plain maximum likelihood before that.")
]
RewriteOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rewrite",
        metavar="NAME:KEY=VALUE",
        help="Makes another network of it first: low-rank:energy=0.9, low-rank:rank={'fc1': 30}. May be given again; "
        "takes the place of an entry's own.",
    ),
]
RetrainOption = Annotated[
    int | None, typer.Option("--retrain-epochs", min=0, help="Passes of maximum likelihood after the rewrites.")
]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        help="Learn from its outputs too: a .pyrc file, a run directory, module:factory (+FILE for weights), or a zoo "
        "entry that is fitted first; none takes an entry's own away.",
    ),
]
TeacherWeightOption = Annotated[
    float | None, typer.Option("--teacher-weight", min=0, max=1, help="λ, the teacher's share; 0.5 if not given.")
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        min=0,
        help="T of both softmaxes, teacher's and student's; inf matches logits. Probabilities as they are if not "
        "given.",
    ),
]
KlWeightOption = Annotated[float | None, typer.Option("--kl-weight", min=0, help="β, weight of the KL term.")]
ChainsOption = Annotated[int | None, typer.Option("--chains", help="Chains of a sampler, moved side by side.")]
DrawsOption = Annotated[int | None, typer.Option("--draws", help="Draws of a sampler that are kept per chain.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Of initialisation, batches and noise.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Torch threads; ranks divide them.")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda or mps; the run's own, or cpu, if not given.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Run directory; runs/NAME-seedSEED if not given.")]
ResumeOption = Annotated[Path | None, typer.Option("--resume", help="Go on with an interrupted run directory.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of a table.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.NAME=VALUE",
        help="Any other setting of prior, method, likelihood, augmentation, pretraining or decision: prior.tau=1e-4, "
        "decision.c=0.25. May be given again.",
    ),
]
DecisionSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="decision.NAME=VALUE",
        help="Another setting of the decision, which the run keeps: decision.tolerance_points=0.5. May be given again.",
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
SitesOption = Annotated[
    list[str] | None,
    typer.Option("--sites", help="Name or pattern of what to look at, e.g. 'fc1.*'. May be given again."),
]
LogLikelihoodOption = Annotated[
    bool, typer.Option("--log-likelihood", help="Also score training examples one by one, for LOO.")
]
FileArgument = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="A .pyrc file, a run directory that holds one, or a shipped network's name."),
]
TargetBytesOption = Annotated[
    int | None,
    typer.Option("--target-bytes", min=1, metavar="N", help="Refine the decision: a file of at most N bytes."),
]
TargetErrorOption = Annotated[
    float | None,
    typer.Option(
        "--target-error",
        min=0,
        metavar="E",
        help="The smallest file with at most E percent (or nats) error on validation data.",
    ),
]
KeepDeviationsOption = Annotated[
    bool,
    typer.Option("--keep-deviations", help="Also keep the posterior's standard deviations, so that it can be sampled."),
]
