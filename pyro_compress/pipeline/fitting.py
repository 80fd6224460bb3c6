"""`pyro_compress.fit`: the loop of `inference/fit.py`, and a look at what came of it."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec

from pyro_compress.errors import PosteriorWarning, warn
from pyro_compress.inference.fit import fit as unexamined_fit
from pyro_compress.inference.loop.alone import alone
from pyro_compress.pipeline.flagging import flags_to_say, with_flags
from pyro_compress.posterior.posterior import Posterior

P = ParamSpec("P")


def _looked_at(run: Callable[P, Posterior]) -> Callable[P, Posterior]:
    """`run`, which takes a model and data, with what speaks against its posterior as flags and one warning."""
    signature = inspect.signature(run)

    @functools.wraps(run)
    def fit(*arguments: P.args, **keywords: P.kwargs) -> Posterior:
        given = signature.bind(*arguments, **keywords).arguments
        # the look at it runs the model too
        with alone():
            posterior = with_flags(run(*arguments, **keywords), given["model"], given["data"])
        said = flags_to_say(posterior, given["model"])
        if said:
            others = ", ".join(flag.name for flag in said[1:])
            more = f" (and {len(said) - 1} more in posterior.flags: {others})" if others else ""
            method = posterior.provenance.get("method", "posterior")
            warn(f"{method}: {said[0].sentence}{more}", PosteriorWarning)
        return posterior

    return fit


fit = _looked_at(unexamined_fit)
