"""`pyro_compress.fit`: the loop of `inference/fit.py`, and a look at what came of it."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.sources import Examples
from pyro_compress.inference.contract import Method
from pyro_compress.inference.fit import Callback
from pyro_compress.inference.fit import fit as run
from pyro_compress.inference.loop.alone import alone
from pyro_compress.inference.loop.watching import Watcher
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.pipeline.flagging import with_flags
from pyro_compress.posterior.posterior import Posterior


def fit(
    model: BayesianNetwork | Callable[..., Any],
    data: DataSet | Examples | Mapping[str, Any] | Any,
    method: Method | str,
    *,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    resume: bool = False,
    callbacks: Iterable[Callback] = (),
    watcher: Watcher | None = None,
) -> Posterior:
    """Fit `model` to `data.train_*` with `method`, and say whether to believe the result.

    Arguments and errors are those of `inference.fit.fit`.  What speaks against the posterior (it has not converged, the
    guide is far from the posterior, a step is too long, β is not 1) is one `PosteriorWarning`, and in
    `posterior.flags` with a name and a sentence each.  No flag is no proof.
    """
    # the look at it runs the model too
    with alone():
        posterior = run(
            model,
            data,
            method,
            seed=seed,
            device=device,
            checkpoint=checkpoint,
            resume=resume,
            callbacks=callbacks,
            watcher=watcher,
        )
        return with_flags(posterior, model, data)
