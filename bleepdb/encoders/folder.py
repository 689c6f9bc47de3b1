"""The model folder: `model.json`, the card, and `weights.safetensors`; and the same as documents.

Where the backbone was trained with the model, its weights stand beside them in
`backbone.safetensors`; the card names their digest. Reading runs no code. The card names the
SHA-256 of the weights, so that a flipped byte is found, and the two are written together or not at
all.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from bleepdb.contracts import check
from bleepdb.encoders.calibration import COLUMNS, ROWS
from bleepdb.encoders.model import Model
from bleepdb.encoders.spec import FeatureSpec
from bleepdb.encoders.towers import Context, tower_from
from bleepdb.encoders.trained import TRAINED, write_backbone
from bleepdb.errors import GeneError, ModelError
from bleepdb.files import canonical_json, digest, fsync_folder
from bleepdb.names import BACKBONE_FILE, LOSS_FILE, MODEL_CARD_FILE, WEIGHTS_FILE
from bleepdb.normalise import TARGET_SUM
from bleepdb.panel import Panel
from bleepdb.run_card import versions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.encoders.backbone import Backbone

FORMAT: Final = "bleepdb-model"
VERSION: Final = 1
CANONICAL: Final = COLUMNS * ROWS
_AGAIN: Final = "copy the model again, or train it again"


def model_to_blobs(model: Model) -> dict[str, bytes]:
    """Return the two files of a model by name; the same model gives the same weights."""
    tensors: dict[str, NDArray[Any]] = {"profile_mean": model.profile_mean}
    for name, tower in (("image", model.image_tower), ("profile", model.profile_tower)):
        tensors |= {f"{name}.{key}": value for key, value in tower.tensors().items()}
    if model.components is not None:
        tensors["components"] = model.components
    if model.readout is not None:
        tensors["readout"] = model.readout
    tensors |= {f"calibration.{name}": value for name, value in model.calibration.items()}
    whole = {name: np.ascontiguousarray(value) for name, value in sorted(tensors.items())}
    weights = safetensors.numpy.save(whole)
    card = {
        "format": FORMAT,
        "version": VERSION,
        "recipe": model.recipe,
        "hyper": dict(model.hyper),
        "features": model.feature_spec.to_json(),
        "licence": model.licence,
        "context": None if model.context is None else model.context.to_json(),
        "image_tower": model.image_tower.kind,
        "profile_tower": model.profile_tower.kind,
        "dimension": model.dimension,
        "expression": {
            "target_sum": TARGET_SUM,
            "log1p": True,
            "panel_digest": model.panel.digest,
            "panel": model.panel.to_json(),
            "components": 0 if model.components is None else int(model.components.shape[1]),
        },
        "key": model.key,
        "retrieval": dict(model.retrieval),
        "training": dict(model.training),
        "scores": dict(model.scores),
        "space_id": model.space_id,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "made": {"versions": versions()},
    }
    card = card | {"checksum": digest("model", canonical_json(card))}
    text = json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return {MODEL_CARD_FILE: text.encode(), WEIGHTS_FILE: weights}


def model_from_blobs(blobs: Mapping[str, bytes], *, where: str | Path = "model") -> Model:
    """Return the model that `model_to_blobs` wrote.

    Parameters
    ----------
    blobs
        Card and weights by file name.
    where
        Where they come from, for messages.

    Raises
    ------
    ModelError
        If one is missing, was changed, or they do not fit each other.
    """
    for name in (MODEL_CARD_FILE, WEIGHTS_FILE):
        if name not in blobs:
            raise ModelError(f"the model lacks {name}", where=where, hint=_AGAIN)
    card = _card(blobs[MODEL_CARD_FILE], f"{where}/{MODEL_CARD_FILE}")
    weights, place = blobs[WEIGHTS_FILE], f"{where}/{WEIGHTS_FILE}"
    if hashlib.sha256(weights).hexdigest() != card["weights_sha256"]:
        raise ModelError("its SHA-256 is not the one that the card names", where=place, hint=_AGAIN)
    try:
        tensors = safetensors.numpy.load(weights)
        panel = Panel.from_json(card["expression"]["panel"])
    except (SafetensorError, ValueError, GeneError) as error:
        raise ModelError(f"cannot be read ({error})", where=place, hint=_AGAIN) from error

    def under(prefix: str) -> dict[str, NDArray[Any]]:
        return {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }

    try:
        model = Model(
            recipe=card["recipe"],
            hyper=card["hyper"],
            feature_spec=FeatureSpec.from_json(card["features"]),
            context=None if card["context"] is None else Context(**card["context"]),
            image_tower=tower_from(card["image_tower"], under("image.")),
            profile_tower=tower_from(card["profile_tower"], under("profile.")),
            panel=panel,
            profile_mean=tensors["profile_mean"],
            components=tensors.get("components"),
            key=card["key"],
            retrieval=card["retrieval"],
            training=card["training"],
            licence=card["licence"],
            scores=card["scores"],
            calibration=under("calibration."),
            readout=tensors.get("readout"),
        )
    except KeyError as error:
        raise ModelError(f"lacks the tensor {error}", where=place, hint=_AGAIN) from error
    except ModelError as error:
        raise ModelError(error.what, where=place, hint=error.hint) from error
    genes = len(panel)
    fits = (
        model.profile_mean.shape == (genes,)
        and model.profile_tower.inputs == genes
        and model.image_tower.dimension == model.profile_tower.dimension == card["dimension"]
        and (model.components is None or model.components.shape[0] == genes)
        and (model.readout is None or _same_shape(model.readout, model.components))
        and panel.digest == card["expression"]["panel_digest"]
        and card["expression"]["target_sum"] == TARGET_SUM
        and set(model.calibration) <= {"image", "expression"}
        and all(c.shape == (CANONICAL, model.dimension) for c in model.calibration.values())
        and all(np.isfinite(t).all() for t in tensors.values())
    )
    if not fits or model.space_id != card["space_id"]:
        raise ModelError("card and weights do not fit each other", where=where, hint=_AGAIN)
    return model


def _same_shape(readout: NDArray[Any], components: NDArray[Any] | None) -> bool:
    return components is not None and readout.shape == components.shape


def _card(data: bytes, where: str) -> dict[str, Any]:
    try:
        card = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"is no JSON ({error})", where=where, hint=_AGAIN) from error
    if isinstance(card, dict) and card.get("version", VERSION) != VERSION:
        raise ModelError(
            f"is of version {card['version']}, this bleepdb reads version {VERSION}",
            where=where,
            hint="use the bleepdb that wrote it, or train the model again",
        )
    check("model_card", card, where=where, error=ModelError, hint=_AGAIN)
    rest = {k: v for k, v in card.items() if k != "checksum"}
    if digest("model", canonical_json(rest)) != card["checksum"]:
        raise ModelError(
            "was changed since it was written (its checksum is wrong)", where=where, hint=_AGAIN
        )
    made: dict[str, Any] = card
    return made


def refuse_folder(folder: Path, *, overwrite: bool) -> None:
    """Check that a model may be written to a folder; parameters and errors as `save_model`."""
    if folder.exists() and not folder.is_dir():
        raise ModelError("is a file", where=folder, hint="name a folder")
    present = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    # Replacing a folder removes all that is in it: more than a model must not be lost that way.
    others = present - {MODEL_CARD_FILE, WEIGHTS_FILE, BACKBONE_FILE, LOSS_FILE}
    if others or (present and MODEL_CARD_FILE not in present):
        raise ModelError(
            f"holds something that is no model ({min(others or present)})",
            where=folder,
            hint="name a new folder",
        )
    if present and not overwrite:
        raise ModelError(
            "holds a model already", where=folder, hint="name a new folder, or pass --overwrite"
        )


def save_model(
    model: Model, folder: Path, *, overwrite: bool = False, backbone: Backbone | None = None
) -> None:
    """Write a model folder, whole or not at all.

    Parameters
    ----------
    model
        What to write.
    folder
        New or empty, or with `overwrite` a model folder, which is replaced.
    overwrite
        Whether an earlier model may be replaced.
    backbone
        That was trained with the model, where it was; None: the file that the model was read
        with is copied.

    Raises
    ------
    ModelError
        If the folder holds something else, or a model and `overwrite` is false; or the weights
        of a trained backbone are not to be had.
    """
    folder = folder.absolute()
    refuse_folder(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    part, old = (folder.with_name(f".{folder.name}.{token}.{end}") for end in ("part", "old"))
    part.mkdir()
    try:
        for name, data in model_to_blobs(model).items():
            with (part / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _add_backbone(model, part / BACKBONE_FILE, backbone)
        if folder.is_dir() and (folder / LOSS_FILE).is_file() and model.training.get("loss"):
            shutil.copyfile(folder / LOSS_FILE, part / LOSS_FILE)
        fsync_folder(part)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        fsync_folder(folder.parent)
    finally:
        # Whatever stopped the step between the two renames, the earlier model comes back.
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _add_backbone(model: Model, path: Path, backbone: Backbone | None) -> None:
    """Write or copy the weights of a backbone that was trained with the model."""
    spec = model.feature_spec
    if not spec.weights.startswith(TRAINED):
        return
    if backbone is not None and backbone.weights_digest == spec.weights_digest:
        write_backbone(backbone, path)
    elif backbone is None and model.weights_file is not None:
        shutil.copyfile(model.weights_file, path)
    else:
        raise ModelError(
            f"the weights of its backbone {spec.backbone}, which was trained with it, are not here",
            where=path.parent,
            hint="give the backbone that was trained",
        )
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def load_model(folder: Path, *, weights_file: Path | None = None, check_here: bool = True) -> Model:
    """Read a model folder, and check that it encodes here as it did where it was trained.

    Parameters
    ----------
    folder
        With `model.json` and `weights.safetensors`.
    weights_file
        The backbone's weights, where the card's own source is a file.
    check_here
        Whether the canonical tiles and profiles are encoded and compared (about a second, and
        the backbone is loaded).

    Raises
    ------
    ModelError
        If the folder is missing or incomplete, a file was changed, the backbone's weights are
        not to be had, or the embeddings are others here.
    """
    if not folder.is_dir():
        raise ModelError("no such model folder", where=folder, hint="run `bleepdb train`")
    try:
        blobs = {
            name: (folder / name).read_bytes()
            for name in (MODEL_CARD_FILE, WEIGHTS_FILE)
            if (folder / name).is_file()
        }
    except OSError as error:
        raise ModelError(f"cannot be read ({error})", where=folder) from error
    model = model_from_blobs(blobs, where=folder)
    if weights_file is not None:
        model = replace(model, weights_file=str(weights_file))
    elif model.feature_spec.weights.startswith(TRAINED) and (folder / BACKBONE_FILE).is_file():
        model = replace(model, weights_file=str(folder / BACKBONE_FILE))
    if check_here:
        model.check_calibration(where=folder)
    return model
