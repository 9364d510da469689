"""saescope: a language model's activations turned into named, measured, steerable features with sparse autoencoders."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("saescope")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+source"
