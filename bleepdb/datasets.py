"""Public sections for demo and tests: found where they are in reach, else fetched and checked.

her2st: HER2+ breast tumours measured with Spatial Transcriptomics (Andersson et al., Nature
Communications 2021, doi:10.1038/s41467-021-26271-2; data also at Zenodo record 3957257). Four
consecutive sections of one donor. The material is its authors'; none of it is part of bleepdb.
"""

from __future__ import annotations

import csv
import io
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bleepdb.errors import InputError
from bleepdb.files import cache_dir, file_digest, whole_file

if TYPE_CHECKING:
    from collections.abc import Callable

MATERIAL_VARIABLE: Final = "BLEEPDB_TEST_DATA"
HER2ST: Final = "her2st"
HER2ST_URL: Final = (
    "https://raw.githubusercontent.com/almaan/her2st/179d9db111a1da4f02ee2e864f12b55290ac83c1/data"
)
TIMEOUT_S: Final = 30.0
BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file of a public dataset: its name here, its path there, its SHA-256."""

    name: str
    path: str
    sha256: str


HER2ST_FILES: Final = (
    RemoteFile("C2.jpg", "ST-imgs/C/C2/5714_HE_BT_C2.jpg",
               "26e2f73ae840cdd46c5bba405aae181f13a56a376b9848dff23f7a9c5de7f19e"),
    RemoteFile("C3.jpg", "ST-imgs/C/C3/5714_HE_BT_D1.jpg",
               "0005a92674014d473040a28f0afca89ce5fa5c44019b479b638ceb3272ceb568"),
    RemoteFile("C4.jpg", "ST-imgs/C/C4/5714_HE_BT_D2.jpg",
               "f40607eb1d5f0d125decd71c48b0c5d29cf6776ad92297fd185631208c82d6f2"),
    RemoteFile("C5.jpg", "ST-imgs/C/C5/5714_HE_BT_E1.jpg",
               "34028ea41e376396b50c42b0a11a7e689c85be4a8022e668d0a09cc128c04c65"),
    RemoteFile("C2.tsv.gz", "ST-cnts/C2.tsv.gz",
               "c1c59ea6cffae36b9ecb561b8e2a97e3aa5f4085f748e991a0e330ed9d09773d"),
    RemoteFile("C3.tsv.gz", "ST-cnts/C3.tsv.gz",
               "e00c55a3eb9caac5d9c71b8906aae8be8b38f93e23938f4a0ebee17683ef6a2a"),
    RemoteFile("C4.tsv.gz", "ST-cnts/C4.tsv.gz",
               "33201f76d41d7131dc600a0f87d9a70383af3503e81698b4d11e6f2e8d73e9da"),
    RemoteFile("C5.tsv.gz", "ST-cnts/C5.tsv.gz",
               "c0f310315ca6110d74dbdf7011e5b42432ba0b8eb5f001824764911988f39338"),
    RemoteFile("C2_selection.tsv", "ST-spotfiles/C2_selection.tsv",
               "235b5f4306b3b57c628ffc82c98c7109602474fbcc79a917b9c50517f99b6b1c"),
    RemoteFile("C3_selection.tsv", "ST-spotfiles/C3_selection.tsv",
               "7fd76c13370b7804ac3bb377b846d22485cf9223f9dd8dfc25be06e5aaf65755"),
    RemoteFile("C4_selection.tsv", "ST-spotfiles/C4_selection.tsv",
               "47e79f3b9dbfa3a8c18af9e948ba7ba4bf0a75ea1b4c292bc714ced7d0917d4c"),
    RemoteFile("C5_selection.tsv", "ST-spotfiles/C5_selection.tsv",
               "2114cc3b4da759772112897f1e247d5443c9f8c808e6a9a952eb4fda379a194c"),
)  # fmt: skip
HER2ST_SECTIONS: Final = ("C2", "C3", "C4", "C5")


def her2st_folder(
    *, url: str = HER2ST_URL, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Return a folder with the four sections, checked; fetch them where no folder is in reach.

    Looked in: ``$BLEEPDB_TEST_DATA/her2st``, ``../shared/data/her2st``, the cache.

    Parameters
    ----------
    url
        Where they are fetched from.
    progress
        Called with (files done, files).

    Raises
    ------
    InputError
        In one line, where they are neither in reach nor to be had, or are not what they should
        be.
    """
    named = os.environ.get(MATERIAL_VARIABLE)
    near = ([Path(named)] if named else []) + [Path("..") / "shared" / "data"]
    for folder in near:
        if all((folder / HER2ST / f.name).is_file() for f in HER2ST_FILES):
            return _checked(folder / HER2ST)
    kept = cache_dir() / "datasets" / HER2ST
    for done, file in enumerate(HER2ST_FILES):
        if progress is not None:
            progress(done, len(HER2ST_FILES))
        if not (kept / file.name).is_file():
            _fetch(f"{url}/{file.path}", kept / file.name, file.sha256)
    if progress is not None:
        progress(len(HER2ST_FILES), len(HER2ST_FILES))
    return _checked(kept)


def _checked(folder: Path) -> Path:
    for file in HER2ST_FILES:
        if file_digest(folder / file.name) != file.sha256:
            raise InputError(
                "is not the published file (its SHA-256 differs)",
                where=folder / file.name,
                hint="remove it and run again",
            )
    return folder


def _fetch(url: str, path: Path, sha256: str) -> None:
    try:
        with whole_file(path) as part:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, part.open("wb") as file:  # noqa: S310 - a fixed https address
                while block := answer.read(BLOCK_BYTES):
                    file.write(block)
            if file_digest(part) != sha256:
                raise InputError(
                    "what was fetched is not the published file (its SHA-256 differs)", where=url
                )
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise InputError(
            f"the her2st sections are not in reach: {MATERIAL_VARIABLE} and ../shared/data hold "
            f"none, and fetching them failed ({reason})",
            hint=f"set {MATERIAL_VARIABLE} to a folder that has {HER2ST}/",
        ) from error


def her2st_sheet(folder: Path) -> str:
    """Return the text of a sample sheet for the four sections in a folder, absolute paths."""
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(("section", "donor", "tissue", "species", "assay", "expression", "image"))
    for name in HER2ST_SECTIONS:
        counts, image = (folder / f"{name}{end}" for end in (".tsv.gz", ".jpg"))
        table.writerow((name, "C", "breast", "human", "st", counts.resolve(), image.resolve()))
    return lines.getvalue()
