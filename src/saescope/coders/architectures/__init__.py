"""The architectures. Importing this package registers them."""

from saescope.coders.architectures.batchtopk import BatchTopK
from saescope.coders.architectures.jumprelu import JumpReLU
from saescope.coders.architectures.matryoshka import Matryoshka

__all__ = ["BatchTopK", "JumpReLU", "Matryoshka"]
