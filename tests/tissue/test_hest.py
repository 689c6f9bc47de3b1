"""HEST-1k's layout: what lies beside the h5ad is found, believed in order, and checked."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

from bleepdb.errors import BleepdbError, GeneError, SectionError, SheetError
from bleepdb.tissue import load_section, read_section, read_sheet, row_for
from bleepdb.tissue.readers.layout import look

from .section_files import write_hest


def read(path, **about):
    return read_section(row_for(path, **{"donor": "P", "tissue": "any", **about}))


def test_slide_and_microns_come_from_the_layout(tmp_path):
    path = write_hest(tmp_path)
    assert look(path).kind == "hest"
    section = read(path)
    assert section.section == "TENX1"
    assert section.slide_path == tmp_path / "wsis" / "TENX1.tif"
    assert (section.slide_mpp, section.mpp_source) == (0.5, "HEST metadata")
    assert section.assay == "visium"
    notes = " | ".join(section.notes)
    assert "by the layout of HEST-1k" in notes
    assert "77 of 77 HEST patches are centred on their spots" in notes
    assert "5 HEST patches show what the slide shows there" in notes
    assert section.reference_image.scale == 0.1


def test_a_sheet_may_leave_image_and_mpp_out(tmp_path):
    write_hest(tmp_path)
    sheet = tmp_path / "samples.csv"
    sheet.write_text("section,donor,tissue,expression\nA,P1,breast,st/TENX1.h5ad\n")
    (row,) = read_sheet(sheet)
    section = read_section(row)
    assert section.donor == "P1"
    assert section.slide_path is not None
    sheet.write_text("section,donor,tissue,expression,mpp\nA,P1,breast,st/TENX1.h5ad,0.51\n")
    assert read_section(read_sheet(sheet)[0]).mpp_source == "sheet"


def test_the_rows_own_image_goes_first(tmp_path):
    path = write_hest(tmp_path)
    Image.new("RGB", (2300, 1700)).save(tmp_path / "own.png")
    section = read(path, image=tmp_path / "own.png")
    assert section.slide_path == tmp_path / "own.png"
    assert "patches are not compared" in section.notes[0]


def test_parts_may_be_missing(tmp_path):
    path = write_hest(tmp_path, patches=False)
    assert read(path).slide_mpp == 0.5
    (tmp_path / "metadata" / "TENX1.json").unlink()
    assert read(path).mpp_source == "spot pitch"
    (tmp_path / "wsis" / "TENX1.tif").unlink()
    assert look(path).kind == "h5ad"
    assert read(path).slide_path is None


def test_another_technology(tmp_path):
    path = write_hest(
        tmp_path,
        metadata={
            "st_technology": "Xenium", "inter_spot_dist": 100, "spot_diameter": None,
            "pixel_size_um_estimated": None, "pixel_size_um_embedded": 0.5,
        },
    )  # fmt: skip
    section = read(path)
    assert (section.assay, section.pitch_um, section.spot_diameter_um) == ("xenium", 100, None)
    assert section.slide_mpp == 0.5


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"shift": 40}, r"20 of 77 patches are not centred on their spots; the patches, or the pl"),
        ({"flip": True}, r"the patches do not show what the slide shows there \(median difference"),
        ({"metadata": {"species": "Mus musculus"}}, "the metadata say mouse.*pass --species mouse"),
        (
            {"metadata": {"fullres_px_width": 999}},
            r"the slide has 2300 x 1700 px, its metadata say",
        ),
    ],
)
def test_what_is_of_another_sample_is_refused(tmp_path, made, said):
    path = write_hest(tmp_path, **made)
    with pytest.raises(SectionError, match=said):
        read(path)


def test_damaged_parts(tmp_path):
    path = write_hest(tmp_path)
    (tmp_path / "metadata" / "TENX1.json").write_text("{")
    with pytest.raises(SectionError, match=r"TENX1\.json: not readable JSON"):
        read(path)
    (tmp_path / "metadata" / "TENX1.json").write_text(json.dumps({"pixel_size_um_estimated": 0.5}))
    with h5py.File(tmp_path / "patches" / "TENX1.h5", "r+") as handle:
        del handle["barcode"]
        handle["barcode"] = np.array([b"none"] * 77)[:, None]
    with pytest.raises(SectionError, match="no patch is of a spot of this section"):
        read(path)
    (tmp_path / "patches" / "TENX1.h5").write_bytes(b"no")
    with pytest.raises(SectionError, match="cannot be read as HEST patches"):
        read(path)


def test_metadata_that_disagree_with_the_spots_are_told(tmp_path):
    section = read(write_hest(tmp_path, metadata={"pixel_size_um_estimated": 0.6}))
    notes = " | ".join(section.notes)
    assert "mpp 0.6 from HEST metadata is used; spot pitch says 0.5" in notes
    assert "HEST patches are 134 µm wide" in notes


def test_the_folder_itself_names_its_sections(tmp_path):
    write_hest(tmp_path)
    seen = look(tmp_path)
    assert (seen.kind, seen.what) == (None, "a folder of HEST-1k layout")
    with pytest.raises(
        SectionError, match=r"HEST-1k folder of 1 sections; give one of them.*TENX1"
    ):
        read(tmp_path, section="s")


def test_the_folder_and_a_sheet_of_its_samples(tmp_path):
    paths = [write_hest(tmp_path, name) for name in ("TENX1", "TENX2")]
    sheet = tmp_path / "samples.csv"
    sheet.write_text("section,donor,tissue,expression\nTENX1,P1,x,.\nTENX2,P2,x,.\n")
    rows = read_sheet(sheet)
    assert [r.expression.resolve() for r in rows] == [p.resolve() for p in paths]
    assert [read_section(r).slide_path.name for r in rows] == ["TENX1.tif", "TENX2.tif"]
    sheet.write_text("section,donor,tissue,expression\nTENX1,P1,x,.\nB,P2,x,st/TENX1.h5ad\n")
    with pytest.raises(SheetError, match=r"st/TENX1\.h5ad stands in line 2 too"):
        read_sheet(sheet)
    for name in ("TENX3", "..", "../st/TENX1"):
        sheet.write_text(f"section,donor,tissue,expression\n{name},P1,x,.\n")
        with pytest.raises(BleepdbError):
            read_section(read_sheet(sheet)[0])


def test_simulated_sections_in_the_layout_are_those_of_the_sheet(tmp_path):
    """What the simulator writes, moved into the layout, is read the same without image and mpp."""
    from bleepdb.simulation import SimulationSettings, simulate
    from bleepdb.simulation import write as write_simulation

    donors = SimulationSettings().donors[:2]
    few = SimulationSettings(sections_per_donor=1, mpp=2.0, field_um=2000.0, donors=donors)
    rows = read_sheet(write_simulation(simulate(few, seed=1), tmp_path / "plain"))
    for part in ("st", "wsis", "metadata"):
        (tmp_path / "hest" / part).mkdir(parents=True)
    lines = ["section,donor,tissue,species,assay,expression,stain"]
    for row in rows:
        shutil.copy(row.expression, tmp_path / "hest" / "st" / f"{row.section}.h5ad")
        with Image.open(row.image) as image:
            image.save(tmp_path / "hest" / "wsis" / f"{row.section}.tif")
            said = {"fullres_height": image.height, "fullres_width": image.width}
        said |= {"pixel_size_um_estimated": 2.0, "st_technology": "Visium"}
        (tmp_path / "hest" / "metadata" / f"{row.section}.json").write_text(json.dumps(said))
        lines.append(
            f"{row.section},{row.donor},{row.tissue},{row.species},{row.assay},.,"
            f"{row.fields['stain']}"
        )
    (tmp_path / "hest" / "samples.csv").write_text("\n".join(lines))
    again = read_sheet(tmp_path / "hest" / "samples.csv")
    for row, other in zip(rows, again, strict=True):
        expected, found = load_section(row), load_section(other)
        assert found.section.digest == expected.section.digest
        assert found.on_tissue == pytest.approx(expected.on_tissue, abs=0.01)
        assert found.section.slide_path.suffix == ".tif"


def test_genes_of_another_species_are_refused_too(tmp_path):
    path = write_hest(tmp_path, metadata={"species": "unheard of"})
    with pytest.raises(GeneError, match="are of human, the section is said to be mouse"):
        read(path, species="mouse")
