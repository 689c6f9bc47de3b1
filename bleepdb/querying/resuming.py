"""Which outputs need not be made again: those whose run card says that nothing has changed."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np

from bleepdb import names
from bleepdb.errors import InputError
from bleepdb.files import canonical_json, digest, file_digest
from bleepdb.tissue.mask import METHODS, OTSU
from bleepdb.tissue.readers.hdf5 import open_hdf5

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bleepdb.atlas import Pinned
    from bleepdb.encoders import Model
    from bleepdb.querying.settings import Query, QuerySettings

REQUEST: Final = "bleepdb-request-1"  # a change of what a query computes gives it another number
CARD: Final = f"uns/{names.UNS_KEY}/run_card"


def request_of(query: Query, settings: QuerySettings, model: Model) -> str:
    """Return the digest of all that is asked of a slide: settings, places, model.

    The slide's own content and the atlas's are told beside it in the run card.
    """
    asked = asdict(settings) | {"where": [str(condition) for condition in settings.where]}
    # The slide's own donor is excluded in any case, whether or not that has been done already.
    donors = {*settings.exclude_donors, *([query.donor] if query.donor is not None else [])}
    asked["exclude_donors"] = sorted(donors)
    if not math.isfinite(settings.max_upsampling):
        asked["max_upsampling"] = None
    of_model = {
        "space": model.space_id,
        "recipe": model.recipe,
        "retrieval": dict(model.retrieval),
        "scores": dict(model.scores),
        "pitch_um": model.pitch_um,
    }
    of_query = {
        "library": query.library,
        "donor": query.donor,
        "mpp": query.slide_mpp,
        "mask": _mask_of(query.mask),
    }
    parts: list[bytes | str] = [REQUEST, *(canonical_json(p) for p in (asked, of_model, of_query))]
    parts += [_bytes(model.components), _bytes(model.readout), _bytes(model.profile_mean)]
    if query.spots is not None:
        parts += ["\n".join(query.spots.names.tolist()), _bytes(query.spots.xy_px)]
    return digest(*parts)


def _mask_of(mask: str | None) -> str:
    """Return the method, or a digest of the file that draws the tissue."""
    if mask is None or mask.lower() in METHODS:
        return (mask or OTSU).lower()
    path = Path(mask)
    if path.is_file():
        return file_digest(path)
    seen = sorted((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in path.rglob("*"))
    return digest("mask", canonical_json(seen))


def _bytes(values: Any) -> bytes:  # noqa: ANN401 - an array, or None
    return b"" if values is None else np.ascontiguousarray(values).tobytes()


def read_card(path: Path) -> dict[str, Any]:
    """Return the run card of an imputed file; nothing else of it is read.

    Raises
    ------
    InputError
        If it is no file of `bleepdb query`.
    """
    with open_hdf5(path, "imputed") as file:
        found = file.get(CARD)
        text = found[()] if isinstance(found, h5py.Dataset) and found.shape == () else b""
    try:
        card: dict[str, Any] = json.loads(text)
        _ = card["facts"]["collection"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            "holds no run card", where=path, hint="give a file that `bleepdb query` wrote"
        ) from error
    return card


def is_current(path: Path, *, request: str, atlas: str, pinned: Pinned) -> Mapping[str, Any] | None:
    """Return the facts of an output that answers the same request on the same live sections.

    None where there is none, or it answers another one. Whether the slide is the same is for the
    caller to see (``slide_digest``), since that means to read all of it.
    """
    if not path.is_file():
        return None
    try:
        facts: Mapping[str, Any] = read_card(path)["facts"]
    except InputError:
        return None
    wanted = {
        "request": request,
        "atlas": atlas,
        "collection": pinned.collection,
        "live_sections": live_sections(pinned),
    }
    return facts if all(facts.get(k) == v for k, v in wanted.items()) else None


def refuse_foreign(path: Path) -> None:
    """Refuse to replace an HDF5 file that no query has written: it may be a measured section.

    What cannot be read at all, such as half of an output, is replaced.

    Raises
    ------
    InputError
        If there is one.
    """
    if not path.is_file():
        return
    try:
        with open_hdf5(path, "imputed") as file:
            ours = CARD in file
    except InputError:
        return
    if not ours:
        raise InputError(
            "is there and was not written by `bleepdb query`",
            where=path,
            hint="name another folder for the outputs, or move it",
        )


def live_sections(pinned: Pinned) -> dict[str, str]:
    """Return the revision of each live section: what a generation stands for, for who reads."""
    return {s.section: s.revision for s in pinned.manifest.live}
