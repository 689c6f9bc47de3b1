"""Made sections, a small model with random weights, and an atlas of two of the sections."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bleepdb.atlas import ExactAtlas
    from bleepdb.encoders import Model
    from bleepdb.tissue import Section


@dataclass(frozen=True)
class Small:
    """What the tests of this folder share; nothing of it is changed by them."""

    sections: list[Section]
    model: Model
    atlas: ExactAtlas


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Small:
    from bleepdb.atlas import ExactAtlas
    from bleepdb.encoders import FeatureSpec, load_backbone
    from bleepdb.indexing import index_section
    from bleepdb.simulation import SimulationSettings, simulate, write
    from bleepdb.tissue import TileGeometry, load_section, read_sheet
    from bleepdb.training import collect_pairs, fit

    folder = tmp_path_factory.mktemp("small")
    sheet = write(simulate(SimulationSettings.tiny(), seed=1), folder)
    sections = [load_section(row).section for row in read_sheet(sheet)]
    backbone = load_backbone("timm:test_efficientnet", weights="random:0")
    spec = FeatureSpec.of(backbone, "multilevel", TileGeometry((100.0,), 64))
    pairs = collect_pairs(sections, spec, backbone)
    model = fit(pairs.subset(pairs.names[:2]), hyper={"alpha": 1e3, "k": 20, "low_rank": 5})
    model = model.calibrated(backbone)
    atlas = ExactAtlas()
    for section in sections[:2]:
        index_section(section, model, atlas, actor="test")
    return Small(sections, model, atlas)


@pytest.fixture(scope="session")
def atlas_lab():
    """The made-up sections of the tests of the atlas."""
    path = Path(__file__).parents[1] / "atlas" / "lab.py"
    found = importlib.util.spec_from_file_location("bleepdb_tests_atlas_lab", path)
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module
