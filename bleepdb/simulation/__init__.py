"""Made tissue with a known truth, for the demo and the tests."""

from bleepdb.simulation.donors import made_donors
from bleepdb.simulation.on_disk import write
from bleepdb.simulation.sections import SimulatedSection, Simulation, simulate
from bleepdb.simulation.settings import SimulationSettings
from bleepdb.simulation.truth import Truth, ceiling, read_truth

__all__ = [
    "SimulatedSection",
    "Simulation",
    "SimulationSettings",
    "Truth",
    "ceiling",
    "made_donors",
    "read_truth",
    "simulate",
    "write",
]
