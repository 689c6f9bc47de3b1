"""Which genes get values."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from bleepdb.errors import GeneError
from bleepdb.panel import Panel
from bleepdb.querying.settings import ALL, MODEL, PREDICTABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bleepdb.encoders import Model

log = logging.getLogger(__name__)

MOST_GENES: Final = 2000
PCC: Final = "pcc"


def refuse_genes(
    asked: str | tuple[str, ...] | None, model: Model, panels: Sequence[Panel], *, where: str
) -> None:
    """Refuse what `choose_genes` could not answer, before a slide is encoded for it.

    Parameters
    ----------
    asked
        See `QuerySettings.genes`.
    model
        Of the query.
    panels
        All that the collection's live spots were measured on.
    where
        The collection, for messages.

    Raises
    ------
    GeneError
        If a named set is not in the card, or none of the names is known.
    """
    if asked == PREDICTABLE:
        _predictable(model)
    if isinstance(asked, tuple) and not any(
        (panel.find(asked) >= 0).any() for panel in (model.panel, *panels)
    ):
        raise _none_known(asked, where)


def _predictable(model: Model) -> NDArray[np.bool_]:
    """Which genes of its panel the card calls predictable; a GeneError where it calls none so."""
    found = model.predictable
    if found is None or not found.any():
        held = "no held-out scores per gene" if found is None else "no predictable gene"
        raise GeneError(
            f"the model's card holds {held}",
            hint="run `bleepdb evaluate ... --card MODEL` first, or choose other genes",
        )
    return found


def _none_known(asked: tuple[str, ...], where: str | None = None) -> GeneError:
    shown = ", ".join(asked[:5])
    return GeneError(
        f"none of the {len(asked)} genes asked for ({shown}) was measured in this atlas",
        where=where,
        hint="use symbols or Ensembl ids of its panel",
    )


class HasPanels(Protocol):
    """What knows the panels that references were measured on."""

    @property
    def panels(self) -> tuple[Panel, ...]:
        """The panels."""
        ...


def choose_genes(asked: str | tuple[str, ...] | None, model: Model, profiles: HasPanels) -> Panel:
    """Decide which genes get values; see `QuerySettings.genes`.

    Parameters
    ----------
    asked
        See `QuerySettings.genes`.
    model
        Of the query.
    profiles
        What answers, or no more than the panels that it was measured on.

    Raises
    ------
    GeneError
        If a named set is not in the card, or none of the names is known.
    """
    every = _union(profiles.panels, model.panel)
    if asked == ALL:
        return every
    if asked == MODEL:
        return model.panel
    predictable = _predictable(model) if asked == PREDICTABLE else model.predictable
    if isinstance(asked, tuple):
        places = every.find(asked)
        known = np.unique(places[places >= 0])
        if not len(known):
            raise _none_known(asked)
        for name in [n for n, p in zip(asked, places, strict=True) if p < 0][:20]:
            log.warning("gene %s is not in this atlas and is left out", name)
        return every.take(list(dict.fromkeys(places[places >= 0].tolist())))
    if predictable is not None and predictable.any():
        scores = (model.gene_scores or {}).get(PCC, np.zeros(len(model.panel)))
        ranked = np.argsort(-np.where(predictable, np.nan_to_num(scores), -np.inf), kind="stable")
        return model.panel.take(np.sort(ranked[: min(int(predictable.sum()), MOST_GENES)]))
    means = model.profile_mean
    return model.panel.take(np.sort(np.argsort(-means, kind="stable")[:MOST_GENES]))


def _union(panels: Sequence[Panel], first: Panel) -> Panel:
    """All genes of the model's panel, then those that further panels add.

    Panels with ids are matched by id alone. So where a gene of a model without ids stands in a
    panel that has them, it takes its id from there; else genes that come with an id would hide
    those that have none.
    """
    symbols, ids = list(first.symbols), list(first.gene_ids or ("",) * len(first))
    seen = set(first.keys) | set(first.symbols)
    for panel in panels:
        found = first.match(panel)
        matched = set(found.right.tolist())
        for here, there in zip(found.left.tolist(), found.right.tolist(), strict=True):
            known = panel.gene_ids[there] if panel.gene_ids else ""
            if not ids[here] and known and known not in seen:
                seen.add(known)
                ids[here] = known
        for i, key in enumerate(panel.keys):
            if i not in matched and key not in seen and panel.symbols[i] not in seen:
                seen |= {key, panel.symbols[i]}
                symbols.append(panel.symbols[i])
                ids.append(panel.gene_ids[i] if panel.gene_ids else "")
    return Panel(tuple(symbols), tuple(ids))
