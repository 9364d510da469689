"""What a coder's weights alone say of its features: output tokens, neighbours, neurons, and a map of them all."""

from saescope.features.weights.layout import layout
from saescope.features.weights.lens import LogitLens, logit_histogram, logit_lens, why_no_lens
from saescope.features.weights.nearest import MAX_LATENTS, Nearest, nearest_decoder, nearest_encoder, nearest_rows
from saescope.features.weights.neurons import Neurons, decoder_norms, neuron_alignment

__all__ = [
    "MAX_LATENTS",
    "LogitLens",
    "Nearest",
    "Neurons",
    "decoder_norms",
    "layout",
    "logit_histogram",
    "logit_lens",
    "nearest_decoder",
    "nearest_encoder",
    "nearest_rows",
    "neuron_alignment",
    "why_no_lens",
]
