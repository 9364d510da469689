"""Sweeps: a grid of coders trained on shared batches, all measured, and their frontiers."""

from saescope.evaluation.sweep.frontier import Frontier, Place, Series, frontier_of
from saescope.evaluation.sweep.grid import Cell, SweepConfig
from saescope.evaluation.sweep.run import Sources, sweep

__all__ = ["Cell", "Frontier", "Place", "Series", "Sources", "SweepConfig", "frontier_of", "sweep"]
