"""Colour and nuclear density alone: stain, cellularity, and no texture.

A ridge on the 37 features of `bleepdb.encoders.colour`. What is not above it has learnt how dark a
place is stained and how many nuclei it has.
"""

from __future__ import annotations

from typing import Final

from bleepdb.evaluation.methods.base import COLOUR
from bleepdb.evaluation.methods.ridge import ridge_method

FAMILY: Final = "colour"
COLOUR_RAW: Final = "colour ridge, nothing else"
COLOUR_EQUAL: Final = "colour ridge, all equal"

METHODS: Final = (
    ridge_method(COLOUR_RAW, "colour, stain and nuclear density of one scale, penalty 1e4", COLOUR,
                 post=False, family=FAMILY),
    ridge_method(COLOUR_EQUAL, "the same with context, penalty by inner folds, low rank 20, "
                 "smoothing", COLOUR, post=True, family=FAMILY),
)  # fmt: skip
