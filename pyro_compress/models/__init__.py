"""What is believed: networks, priors, likelihoods and the Pyro model that they make."""

from typing import TYPE_CHECKING

from pyro_compress._lazy import lazy_names

if TYPE_CHECKING:
    from pyro_compress.models import zoo
    from pyro_compress.models.bayesian import BayesianNetwork
    from pyro_compress.models.generative.activity import active_units, code_variances
    from pyro_compress.models.generative.autoencoders import autoencoder_mnist, autoencoder_mnist_cnn
    from pyro_compress.models.generative.bounds import elbo, log_likelihood
    from pyro_compress.models.generative.coded import coded
    from pyro_compress.models.generative.codes import GaussianCodes
    from pyro_compress.models.generative.encoder_decoder import EncoderDecoder, LabelledEncoderDecoder
    from pyro_compress.models.generative.semi_supervised import SemiSupervisedVAE
    from pyro_compress.models.generative.simplex import DirichletCodes, LogisticNormalCodes
    from pyro_compress.models.generative.vae import VAE
    from pyro_compress.models.hazards import proportional_hazards
    from pyro_compress.models.likelihoods import (
        Bernoulli,
        Categorical,
        ContinuousBernoulli,
        Cox,
        Gaussian,
        Likelihood,
        PiecewiseExponential,
        Poisson,
    )
    from pyro_compress.models.networks import (
        build,
        digits_cnn,
        digits_mlp,
        digits_softmax,
        digits_tanh,
        lenet_5,
        lenet_300_100,
        load_network,
        load_weights,
        mlp_128_128,
        mlp_500_500,
        mnist_cnn,
        mnist_softmax,
        mnist_tanh,
        vae_digits,
        vae_mnist,
        vgg_16,
    )
    from pyro_compress.models.priors.base import Prior
    from pyro_compress.models.priors.entropy_penalised import EntropyPenalised
    from pyro_compress.models.priors.generalized_dropout import GeneralizedDropout
    from pyro_compress.models.priors.group_log_uniform import GroupLogUniform
    from pyro_compress.models.priors.horseshoe import GroupHorseshoe
    from pyro_compress.models.priors.l0 import L0
    from pyro_compress.models.priors.log_uniform import LogUniform
    from pyro_compress.models.priors.multi_spike import MultiSpike
    from pyro_compress.models.priors.normal import Normal
    from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys
    from pyro_compress.models.priors.scale_mixture import ScaleMixture
    from pyro_compress.models.priors.soft_weight_sharing import SoftWeightSharing
    from pyro_compress.models.priors.spike_and_slab import SpikeAndSlab
    from pyro_compress.models.priors.structured_bayesian_pruning import StructuredBayesianPruning
    from pyro_compress.models.rewrites.base import Rewrite
    from pyro_compress.models.rewrites.low_rank import LowRank
    from pyro_compress.models.rewrites.narrow import Narrow
    from pyro_compress.models.rewrites.tie import Tie
    from pyro_compress.models.teaching import Teaching, at_temperature, matching_weight
    from pyro_compress.models.tracing.tracer import trace

_LIKELIHOODS = (
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Cox",
    "Gaussian",
    "Likelihood",
    "PiecewiseExponential",
    "Poisson",
)
_NETWORKS = (
    "build",
    "digits_cnn",
    "digits_mlp",
    "digits_softmax",
    "digits_tanh",
    "lenet_5",
    "lenet_300_100",
    "load_network",
    "load_weights",
    "mlp_128_128",
    "mlp_500_500",
    "mnist_cnn",
    "mnist_softmax",
    "mnist_tanh",
    "vae_digits",
    "vae_mnist",
    "vgg_16",
)
_NAMES = {
    "zoo": "pyro_compress.models.zoo",
    "BayesianNetwork": "pyro_compress.models.bayesian",
    "active_units": "pyro_compress.models.generative.activity",
    "code_variances": "pyro_compress.models.generative.activity",
    "elbo": "pyro_compress.models.generative.bounds",
    "log_likelihood": "pyro_compress.models.generative.bounds",
    "coded": "pyro_compress.models.generative.coded",
    "proportional_hazards": "pyro_compress.models.hazards",
    "autoencoder_mnist": "pyro_compress.models.generative.autoencoders",
    "autoencoder_mnist_cnn": "pyro_compress.models.generative.autoencoders",
    "GaussianCodes": "pyro_compress.models.generative.codes",
    "EncoderDecoder": "pyro_compress.models.generative.encoder_decoder",
    "LabelledEncoderDecoder": "pyro_compress.models.generative.encoder_decoder",
    "SemiSupervisedVAE": "pyro_compress.models.generative.semi_supervised",
    "DirichletCodes": "pyro_compress.models.generative.simplex",
    "LogisticNormalCodes": "pyro_compress.models.generative.simplex",
    "VAE": "pyro_compress.models.generative.vae",
    **dict.fromkeys(_LIKELIHOODS, "pyro_compress.models.likelihoods"),
    **dict.fromkeys(_NETWORKS, "pyro_compress.models.networks"),
    "Prior": "pyro_compress.models.priors.base",
    "EntropyPenalised": "pyro_compress.models.priors.entropy_penalised",
    "GroupLogUniform": "pyro_compress.models.priors.group_log_uniform",
    "GroupHorseshoe": "pyro_compress.models.priors.horseshoe",
    "LogUniform": "pyro_compress.models.priors.log_uniform",
    "MultiSpike": "pyro_compress.models.priors.multi_spike",
    "Normal": "pyro_compress.models.priors.normal",
    "GroupNormalJeffreys": "pyro_compress.models.priors.normal_jeffreys",
    "ScaleMixture": "pyro_compress.models.priors.scale_mixture",
    "SoftWeightSharing": "pyro_compress.models.priors.soft_weight_sharing",
    "Rewrite": "pyro_compress.models.rewrites.base",
    "LowRank": "pyro_compress.models.rewrites.low_rank",
    "Narrow": "pyro_compress.models.rewrites.narrow",
    "Tie": "pyro_compress.models.rewrites.tie",
    "GeneralizedDropout": "pyro_compress.models.priors.generalized_dropout",
    "L0": "pyro_compress.models.priors.l0",
    "SpikeAndSlab": "pyro_compress.models.priors.spike_and_slab",
    "StructuredBayesianPruning": "pyro_compress.models.priors.structured_bayesian_pruning",
    "Teaching": "pyro_compress.models.teaching",
    "at_temperature": "pyro_compress.models.teaching",
    "matching_weight": "pyro_compress.models.teaching",
    "trace": "pyro_compress.models.tracing.tracer",
}
__all__ = [
    "L0",
    "VAE",
    "BayesianNetwork",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Cox",
    "DirichletCodes",
    "EncoderDecoder",
    "EntropyPenalised",
    "Gaussian",
    "GaussianCodes",
    "GeneralizedDropout",
    "GroupHorseshoe",
    "GroupLogUniform",
    "GroupNormalJeffreys",
    "LabelledEncoderDecoder",
    "Likelihood",
    "LogUniform",
    "LogisticNormalCodes",
    "LowRank",
    "MultiSpike",
    "Narrow",
    "Normal",
    "PiecewiseExponential",
    "Poisson",
    "Prior",
    "Rewrite",
    "ScaleMixture",
    "SemiSupervisedVAE",
    "SoftWeightSharing",
    "SpikeAndSlab",
    "StructuredBayesianPruning",
    "Teaching",
    "Tie",
    "active_units",
    "at_temperature",
    "autoencoder_mnist",
    "autoencoder_mnist_cnn",
    "build",
    "code_variances",
    "coded",
    "digits_cnn",
    "digits_mlp",
    "digits_softmax",
    "digits_tanh",
    "elbo",
    "lenet_5",
    "lenet_300_100",
    "load_network",
    "load_weights",
    "log_likelihood",
    "matching_weight",
    "mlp_128_128",
    "mlp_500_500",
    "mnist_cnn",
    "mnist_softmax",
    "mnist_tanh",
    "proportional_hazards",
    "trace",
    "vae_digits",
    "vae_mnist",
    "vgg_16",
    "zoo",
]
__getattr__, __dir__ = lazy_names(__name__, _NAMES)
