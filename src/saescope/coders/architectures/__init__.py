"""The architectures. Importing this package registers them."""

from saescope.coders.architectures.abstopk import AbsTopK
from saescope.coders.architectures.batchtopk import BatchTopK
from saescope.coders.architectures.gated import Gated
from saescope.coders.architectures.jumprelu import JumpReLU
from saescope.coders.architectures.matching_pursuit import MatchingPursuit
from saescope.coders.architectures.matryoshka import Matryoshka
from saescope.coders.architectures.standard import Standard
from saescope.coders.architectures.topk import TopK

__all__ = ["AbsTopK", "BatchTopK", "Gated", "JumpReLU", "MatchingPursuit", "Matryoshka", "Standard", "TopK"]
