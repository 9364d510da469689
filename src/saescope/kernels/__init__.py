"""The few hot operations: one meaning each (`reference`), chosen at run time (`dispatch`), differentiable (`autograd`)."""

from saescope.kernels.autograd import decode_from, per_latent, preactivations_on, reconstruction_error
from saescope.kernels.chunks import token_chunks
from saescope.kernels.dispatch import IMPLEMENTATIONS, VARIABLE, active, using
from saescope.kernels.operands import AdamStep, Decoding, Encoding, Reconstruction, Trained
from saescope.kernels.operations import Kernels
from saescope.kernels.room import Room
from saescope.kernels.support import Support

__all__ = [
    "IMPLEMENTATIONS",
    "VARIABLE",
    "AdamStep",
    "Decoding",
    "Encoding",
    "Kernels",
    "Reconstruction",
    "Room",
    "Support",
    "Trained",
    "active",
    "decode_from",
    "per_latent",
    "preactivations_on",
    "reconstruction_error",
    "token_chunks",
    "using",
]
