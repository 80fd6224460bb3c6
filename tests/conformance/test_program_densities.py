"""Every mechanism that methods work by gives the density that Pyro gives, on every program of the table.

So a handler that one of them ignored is found without a fit: of samplers the log joint, of variational methods the ELBO
at one draw, of MAP its objective, of importance and rejection sampling the densities of proposals, of approximate
Metropolis the shares of single rows.
"""

import warnings
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.gradient.elbo import ElboTerms, closed_form, elbo_terms, sampled
from pyro_compress.inference.guides.joint import MeanField
from pyro_compress.inference.independent.proposals import Proposer
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.variational.particles import GivenDraws
from pyro_compress.inference.variational.score_function import Baseline, score_terms
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.program import Program
from pyro_compress.models.rows import examples_of
from tests.conformance.programs import CASES, Case

# no gradients there, sites that come and go, a log joint that is random, a support that depends on another site
OTHERS = {"discrete sites", "sites that come and go", "subsample_size", "dependent support"}
# where a mask leaves a latent place without any density, it keeps its prior's
PUT_BACK = {"missing data": "y_unobserved", "padded": "means"}
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 2e-3}


@pytest.fixture(autouse=True)
def no_parameters_are_left() -> Any:
    yield
    pyro.clear_param_store()


def pyros(case: Case, values: dict[str, Tensor]) -> Tensor:
    """log p(y, θ) in total nats."""
    with pyro.validation_enabled(False):
        trace = poutine.trace(poutine.condition(case.model, data=values)).get_trace(*case.data)
        total = trace.log_prob_sum()
    assert isinstance(total, Tensor)
    return total


def expected(name: str, values: dict[str, Tensor]) -> Tensor:
    total = pyros(CASES[name], values)
    if name in PUT_BACK:
        trace: Any = poutine.trace(poutine.condition(CASES[name].model, data=values)).get_trace(*CASES[name].data)
        node = trace.nodes[PUT_BACK[name]]
        total = total + torch.where(node["mask"], 0.0, node["fn"].log_prob(node["value"])).sum()
    return total


@pytest.mark.parametrize("name", [name for name in CASES if name not in OTHERS])
def test_all_mechanisms_have_pyros_density(name: str) -> None:
    case = CASES[name]
    program = Program(case.model, case.data)
    # at one value of what the model trains
    program.free.requires_grad_(False)
    size = max(1, examples_of(case.data))
    # graphs take most of the time: handlers are what they could get wrong
    log_joint, guide = LogJoint(program, size, replay=case.shape == "normal"), MeanField(program)
    at = 0.5 * torch.randn(3, log_joint.width, generator=torch.Generator().manual_seed(1))
    values = [log_joint.constrained(row) for row in at]
    joints = torch.stack([expected(name, one) for one in values])
    # of samplers: the graph of a whole batch of chains against one run after the other
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the model cannot be traced")
        found = log_joint(at, case.data)
    jacobians = torch.stack(
        [sum((jacobian(site, row) for site in log_joint.sites), torch.zeros(())) for row in at]
    ).detach()
    torch.testing.assert_close(found.data + found.prior, joints, **CLOSE)
    torch.testing.assert_close(found.log_joint, joints + jacobians, **CLOSE)

    # of variational methods: log joint − log q at one draw
    def at_draw(divergence: Any) -> ElboTerms:
        return elbo_terms(
            program.forward, guide.forward, GivenDraws(at[0]), *case.data, size=size, divergence=divergence
        )

    with torch.no_grad():
        log_q = guide.distribution().log_prob(at[0])
        entropy = guide.distribution().entropy()
        terms, closed = at_draw(sampled), at_draw(closed_form)
        torch.testing.assert_close(terms.data - terms.complexity, joints[0] + jacobians[0] - log_q, **CLOSE)
        torch.testing.assert_close(closed.data - closed.complexity, joints[0] + jacobians[0] + entropy, **CLOSE)
        torch.testing.assert_close(terms.data, found.data[0], **CLOSE)
    torch.manual_seed(3)
    scored = score_terms(program.forward, guide.forward, Baseline(), *case.data, size=size)
    torch.manual_seed(3)
    with torch.no_grad():
        plain = elbo_terms(program.forward, guide.forward, None, *case.data, size=size)
    torch.testing.assert_close(scored.data.detach(), plain.data, **CLOSE)
    torch.testing.assert_close(scored.complexity.detach(), plain.complexity, **CLOSE)

    # of MAP
    method = MAP(epochs=1)
    state = method.init(program, size, 0)
    with torch.no_grad():
        for site in log_joint.sites:
            getattr(state.points.latent, site.name.replace(".", "__")).copy_(
                at[0][site.where].reshape(site.unconstrained)
            )
        terms = method.terms(state, case.data)
    torch.testing.assert_close(terms.data - terms.complexity, joints[0], **CLOSE)

    # of proposals: what they weigh, and what they were drawn with
    torch.manual_seed(2)
    proposed = Proposer(program, size).draw(3, case.data)
    for index in range(3):
        one = {key: value[index] for key, value in proposed.values.items()}
        both = proposed.log_likelihood[index] + proposed.log_prior[index]
        torch.testing.assert_close(both.float(), expected(name, one), rtol=1e-3, atol=2e-3)
        drawn = poutine.trace(poutine.condition(case.model, data=one)).get_trace(*case.data)
        drawn.compute_log_prob()
        prior = sum((drawn.nodes[key]["unscaled_log_prob"].sum() for key in one), torch.zeros(()))
        torch.testing.assert_close(proposed.log_proposal[index].float(), prior, **CLOSE)

    # of approximate Metropolis, where it runs
    try:
        program.rows()
    except InferenceError:
        return
    each, rest = log_joint.apart(at[0], *case.data)
    torch.testing.assert_close(each.sum() + rest, joints[0] + jacobians[0], **CLOSE)


@pytest.mark.parametrize("name", [name for name in CASES if name not in OTHERS | PUT_BACK.keys() | {"looped plate"}])
def test_a_guide_of_the_users_has_pyros_elbo(name: str) -> None:
    case = CASES[name]
    method = SVI(guide=AutoNormal(case.model, init_scale=0.5))
    state = method.init(Program(case.model, case.data), max(1, examples_of(case.data)), 0)
    torch.manual_seed(1)
    with torch.no_grad():
        terms = method.terms(state, case.data)
    torch.manual_seed(1)
    loss = Trace_ELBO().loss(case.model, state.guide.function, *case.data)
    assert float(terms.complexity - terms.data) == pytest.approx(loss, rel=1e-4, abs=2e-3)


def jacobian(site: Any, flat: Tensor) -> Tensor:
    if site.transform is None:
        return torch.zeros(())
    raw = flat[site.where].reshape(site.unconstrained)
    found: Tensor = site.transform.log_abs_det_jacobian(raw, site.transform(raw)).sum()
    return found
