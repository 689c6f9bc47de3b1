"""The one home of every key that is written to a file, a payload or an AnnData."""

from __future__ import annotations

import re
from typing import Final

# --- vectors of a point -------------------------------------------------------------------
IMAGE: Final = "image"
EXPRESSION: Final = "expression"
VECTORS: Final = (IMAGE, EXPRESSION)

# --- payload of a point (DESIGN: atlas) -----------------------------------------------------
REV: Final = "rev"
SECTION: Final = "section"
DONOR: Final = "donor"
SPECIES: Final = "species"
TISSUE: Final = "tissue"
ASSAY: Final = "assay"
BARCODE: Final = "barcode"
X_PX: Final = "x_px"
Y_PX: Final = "y_px"
PANEL: Final = "panel"
NNZ: Final = "nnz"
TOTAL: Final = "total"
LIBRARY_TOTAL: Final = "library_total"
VCRC: Final = "vcrc"
CODEC: Final = "codec"
EXPR: Final = "expr"
KEYWORD_FIELDS: Final = (REV, SECTION, DONOR, SPECIES, TISSUE, ASSAY, PANEL)
RESERVED_FIELDS: Final = frozenset(
    {
        REV, SECTION, DONOR, SPECIES, TISSUE, ASSAY, BARCODE, X_PX, Y_PX,
        PANEL, NNZ, TOTAL, LIBRARY_TOTAL, VCRC, CODEC, EXPR,
    }
)  # fmt: skip

# --- Tiles ------------------------------------------------------------------------------------
MAX_UPSAMPLING: Final = 1.7
"""A tile may have this many pixels for each of its slide's: finer fields than a slide was scanned
for still help (measured at 1.4 and 1.6), and far above that a tile is mostly blur."""

# --- Model card ------------------------------------------------------------------------------
DEPTH_POWER: Final = "depth_power"

# --- AnnData --------------------------------------------------------------------------------
SPATIAL: Final = "spatial"
NEIGHBOURS_KEY: Final = "bleepdb_neighbors"
WEIGHTS_KEY: Final = "bleepdb_weights"
UNS_KEY: Final = "bleepdb"
REFERENCES_KEY: Final = "references"
NEIGHBOUR_SD_LAYER: Final = "neighbor_sd"
LIBRARY_ID: Final = "library_id"
TILE_ID: Final = "tile_id"
TOP_SIMILARITY: Final = "top_similarity"
EFFECTIVE_NEIGHBOURS: Final = "effective_neighbors"
EFFECTIVE_DONORS: Final = "effective_donors"
GENE_IDS: Final = "gene_ids"
COVERAGE: Final = "coverage"
EDGE_FRACTION: Final = "edge_fraction"
ABSTAINED: Final = "abstained"
OOD_SCORE: Final = "ood_score"
OOD: Final = "ood"
PCC: Final = "pcc"
NOISE_CEILING: Final = "noise_ceiling"
PREDICTABLE: Final = "predictable"
HELD_OUT_SCORES: Final = (PCC, NOISE_CEILING, PREDICTABLE)  # of a gene, by the model's card

# --- model folder ---------------------------------------------------------------------------
MODEL_CARD_FILE: Final = "model.json"
WEIGHTS_FILE: Final = "weights.safetensors"
BACKBONE_FILE: Final = "backbone.safetensors"
LOSS_FILE: Final = "loss.png"

# --- names ----------------------------------------------------------------------------------
SLUG: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
SECTION_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
SPECIES_KNOWN: Final = ("human", "mouse", "rat")


def slug(text: str) -> str:
    """Turn a tissue name into a slug: lower case, runs of other characters become one hyphen.

    Raises
    ------
    ValueError
        If nothing usable is left.
    """
    made = re.sub(r"[^a-z0-9]+", "-", text.strip().lower()).strip("-")
    if not SLUG.fullmatch(made):
        message = f"{text!r} gives no usable name"
        raise ValueError(message)
    return made


def collection_name(tissue: str, space_id: str) -> str:
    """Return the collection of a tissue in a space: ``bleepdb_{tissue}_{space8}``."""
    return f"{alias_name(tissue)}_{space_id[:8]}"


def alias_name(tissue: str) -> str:
    """Return the alias that points at a tissue's current collection."""
    return f"bleepdb_{slug(tissue)}"
