"""Made tissue with a known truth, for the demo and the tests."""

from bleepdb.simulation.settings import SimulationSettings
from bleepdb.simulation.simulate import SimulatedSection, Simulation, simulate
from bleepdb.simulation.write import Truth, ceiling, read_truth, write

__all__ = [
    "SimulatedSection",
    "Simulation",
    "SimulationSettings",
    "Truth",
    "ceiling",
    "read_truth",
    "simulate",
    "write",
]
