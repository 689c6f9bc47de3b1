"""What an evaluation says: one JSON document, the rows of a table, and one plain sentence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.evaluation.fold_result import MEASURED, TRAINED, Structure, number, numbers
from bleepdb.evaluation.held_out import DRAWS, WITHOUT
from bleepdb.evaluation.intervals import Bootstrap, block_label
from bleepdb.evaluation.methods import RIDGE_EQUAL
from bleepdb.evaluation.protocol import LINEAR, PREDICTABLE_PCC, STRUCTURE_OF
from bleepdb.evaluation.rows import rows_of
from bleepdb.evaluation.structure import pseudobulk_correlation
from bleepdb.gene_sets import HEG, HVG, MG
from bleepdb.run_card import make_run_card

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bleepdb.evaluation.fold_result import FoldResult
    from bleepdb.evaluation.settings import Settings
    from bleepdb.panel import Panel
    from bleepdb.training import Pairs

__all__ = ["FORMAT", "SHOWN_SETS", "VERSION", "About", "Report", "block_label", "plain_json"]

FORMAT: Final = "bleepdb-evaluation"
VERSION: Final = 2
SHOWN_SETS: Final = (HEG, MG, HVG)
FEWEST_BULKS: Final = 3
FITTED: Final = (
    "Gene sets, scaling, components and penalties are fitted on the training sections of each "
    "fold. Scores are Pearson correlations per gene over the spots of a held-out section, in the "
    "mean over sections; a gene without a score counts as 0."
)
CEILING: Final = (
    "The noise ceiling is what a perfect prediction of the rates could reach on these counts, "
    "estimated by splitting them. It is an upper bound: technical noise beyond counting, and depth "
    "that differs between spots, count as signal in it."
)


@dataclass(frozen=True)
class About:
    """What the folds of an evaluation have in common: it is the same in all parts of a merge.

    Attributes
    ----------
    held_out, why
        ``"donor"``, ``"section"`` or ``"lists"``, and in a clause why.
    recipes
        Names, ours first.
    donors
        Section -> donor.
    features
        ``ours``, ``published`` and ``colour``: JSON objects, or None.
    methods
        One JSON object a row, ours first.
    seeds
        All of them.
    permutations, epochs
        As in `Settings`.
    planned
        Names of all folds.
    panel
        The genes that all sections share: those with a score of their own.
    """

    held_out: str
    why: str
    recipes: tuple[str, ...]
    donors: dict[str, str]
    features: dict[str, Any]
    methods: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]
    permutations: int
    epochs: int
    planned: tuple[str, ...]
    panel: Panel

    @property
    def ours(self) -> str:
        """Name of the first row."""
        name: str = self.methods[0]["name"]
        return name

    @property
    def kept(self) -> list[str]:
        """Methods whose gene-gene correlations are kept."""
        return [m["name"] for m in self.methods if m["name"] in (self.ours, *STRUCTURE_OF)]


@dataclass(frozen=True)
class Report:
    """All that an evaluation found.

    Attributes
    ----------
    folds
        One result a fold.
    about
        What they have in common.
    """

    folds: Sequence[FoldResult]
    about: About

    @classmethod
    def of(
        cls,
        folds: Sequence[FoldResult],
        settings: Settings,
        ours: Pairs,
        published: Pairs | None = None,
        colour: Pairs | None = None,
    ) -> Report:
        """Put results together with what they were made from."""
        donors = {s.section: s.donor for s in ours.sections}
        held_out, why = settings.held_out(donors)
        rows = rows_of(settings)
        kinds = {"ours": ours, "published": published, "colour": colour}
        about = About(
            held_out=held_out,
            why=why,
            recipes=tuple(r.name for r in rows.recipes),
            donors=donors,
            features={
                k: None if v is None else plain_json(v.feature_spec.to_json())
                for k, v in kinds.items()
            },
            methods=tuple(
                {
                    "name": m.name, "about": m.about, "family": m.family,
                    "features": m.features, "post": m.post, "draws": m.draws,
                }
                for m in rows.methods
            ),
            seeds=settings.drawn,
            permutations=settings.permutations,
            epochs=settings.epochs,
            planned=tuple(s.name for s in settings.planned(donors)),
            panel=ours.panel,
        )  # fmt: skip
        return cls(tuple(folds), about)

    @property
    def ours(self) -> str:
        """Name of the method that the others are compared with."""
        return self.about.ours

    @property
    def panel(self) -> Panel:
        """The genes that all sections share."""
        return self.about.panel

    @property
    def names(self) -> list[str]:
        """All methods, ours first."""
        return [m["name"] for m in self.about.methods]

    @property
    def sets(self) -> list[str]:
        """Gene sets that every fold has."""
        return [k for k in self.folds[0].sets if all(f.sets.get(k) for f in self.folds)]

    @property
    def bootstrap(self) -> Bootstrap:
        """Draws of the mean over folds."""
        return Bootstrap(self.folds, self.about.seeds[0])

    @property
    def interval_label(self) -> str:
        """What the intervals are about, in words."""
        return self.bootstrap.label(self.about.donors, self.about.held_out)

    def means(self) -> dict[str, dict[str, float]]:
        """Mean score over folds: method -> gene set -> PCC."""
        return {
            name: {
                key: float(np.mean([f.scores[name][key] for f in self.folds])) for key in self.sets
            }
            for name in self.names
        }

    def ceilings(self) -> dict[str, float]:
        """Mean noise ceiling of the held-out counts, per gene set."""
        return {k: float(np.mean([f.set_ceiling[k] for f in self.folds])) for k in self.sets}

    def interval_of(self, method: str, gene_set: str) -> tuple[float, float]:
        """Bootstrap interval of a method's mean score."""
        return self.bootstrap.interval(method, gene_set)

    def sd_over_seeds(self, method: str, gene_set: str) -> float:
        """SD over seeds of the mean over folds; NaN where nothing is drawn, or with one seed."""
        if len(self.about.seeds) < 2 or method not in self.folds[0].by_seed:
            return float("nan")
        each = np.mean([f.by_seed[method][gene_set] for f in self.folds], axis=0)
        return float(np.std(each, ddof=1))

    def null(self) -> dict[str, dict[str, float]]:
        """Observed score beside those of shuffled pairs, per gene set, in the mean over folds.

        Both are of the linear recipe.
        """
        made = {}
        for key in self.sets:
            if any(key not in f.null for f in self.folds):
                continue
            shuffled = np.mean([f.null[key] for f in self.folds], axis=0)
            observed = float(np.mean([f.null_observed[key] for f in self.folds]))
            made[key] = {
                "observed": observed,
                "mean": float(shuffled.mean()),
                "p99": float(np.percentile(shuffled, 99)),
                "p_value": float(((shuffled >= observed).sum() + 1) / (len(shuffled) + 1)),
            }
        return made

    def comparisons(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Ours beside each other method, per gene set: ratio, difference and its interval."""
        means, ours = self.means(), self.ours
        made: dict[str, dict[str, dict[str, Any]]] = {}
        for other in self.names[1:]:
            made[other] = {}
            for key in self.sets:
                low, high = self.bootstrap.difference(ours, other, key)
                base = means[other][key]
                made[other][key] = {
                    "ratio": means[ours][key] / base if base > 0 else None,
                    "difference": means[ours][key] - base,
                    "low": low,
                    "high": high,
                    "folds_above": sum(
                        f.scores[ours][key] > f.scores[other][key] for f in self.folds
                    ),
                }
        return made

    def summary(self) -> str:
        """Say in one sentence whether retrieval beats the simplest equal opponent."""
        if RIDGE_EQUAL not in self.names:
            return (
                f"whether a ridge would be enough is not known: {RIDGE_EQUAL!r} is not among the "
                "methods"
            )
        found = self.comparisons()[RIDGE_EQUAL]
        sets = [k for k in self.sets if not k.endswith(WITHOUT)]
        sure = [k for k in sets if found[k]["low"] > 0]
        if len(sure) == len(sets):
            return (
                f"{self.ours} is above an equal ridge on every gene set, with its interval above 0"
            )
        if not sure:
            return (
                f"on no gene set is {self.ours} above an equal ridge with its interval above 0: "
                "for accuracy alone a ridge is enough here"
            )
        rest = ", ".join(k for k in sets if k not in sure)
        return (
            f"{self.ours} is above an equal ridge on {', '.join(sure)} (interval above 0); on "
            f"{rest} a ridge is enough"
        )

    def gene_scores(self, panel: Panel) -> dict[str, NDArray[np.float64]]:
        """Mean over folds of each gene's held-out PCC and noise ceiling, on a panel.

        Returns
        -------
        dict
            ``pcc``, ``noise_ceiling`` and ``moran``, Moran's I of what was measured (NaN where no
            fold scored the gene), and ``predictable``: 1 where the mean PCC reaches 0.2 and no
            fold's is below 0.
        """
        shape = (len(self.folds), len(panel))
        pcc, ceiling, moran = (np.full(shape, np.nan) for _ in range(3))
        for i, fold in enumerate(self.folds):
            found = panel.match(fold.genes)
            pcc[i, found.left] = fold.pcc[found.right]
            ceiling[i, found.left] = fold.ceiling[found.right]
            moran[i, found.left] = fold.moran_of_genes[found.right]
        mean = _mean_where_known(pcc)
        steady = np.nan_to_num(pcc).min(axis=0) >= 0
        good = np.isfinite(pcc).all(axis=0) & (np.nan_to_num(mean) >= PREDICTABLE_PCC) & steady
        return {
            "pcc": mean,
            "noise_ceiling": _mean_where_known(ceiling),
            "predictable": good.astype(np.float64),
            "moran": _mean_where_known(moran),
        }

    def card_scores(self, panel: Panel) -> dict[str, Any]:
        """Return what the model card keeps: per gene set and per gene, and how it was found."""
        genes = self.gene_scores(panel)
        return {
            "about": {
                "held_out": self.about.held_out,
                "recipe": self.ours,
                "folds": [f.split.name for f in self.folds],
                "predictable": f"mean held-out PCC of at least {PREDICTABLE_PCC} and below 0 in "
                "no fold",
                "interval": self.interval_label,
            },
            "sets": {k: _number(v, 4) for k, v in self.means()[self.ours].items()},
            "genes": {
                name: _listed(genes[name]) for name in ("pcc", "noise_ceiling", "predictable")
            },
        }

    def structure(self) -> Structure | None:
        """Correlations among the genes that every fold chose, in the mean over folds."""
        parts = [f.structure for f in self.folds]
        known = [p for p in parts if p is not None]
        if len(known) < len(parts):
            return None
        genes = [g for g in known[0].genes if all(g in p.genes for p in known)]
        if len(genes) < 2:
            return None
        at = [np.ix_(w, w) for w in ([p.genes.index(g) for g in genes] for p in known)]

        def mean(matrices: list[NDArray[np.float64]]) -> NDArray[np.float64]:
            return np.round(
                _mean_where_known(np.stack([m[w] for m, w in zip(matrices, at, strict=True)])), 4
            )

        return Structure(
            genes=tuple(genes),
            measured=mean([p.measured for p in known]),
            imputed={k: mean([p.imputed[k] for p in known]) for k in known[0].imputed},
            agreement={k: _mean([p.agreement[k] for p in known]) for k in self.names},
        )

    def pseudobulk(self) -> dict[str, float]:
        """Return, by method, the mean over genes of the correlation over sections of their means.

        Both less the training mean of their fold, on which every fold leans. Over the genes that
        every fold chose; NaN where fewer than three sections were held out.
        """
        genes = [g for g in self.folds[0].bulk_genes if all(g in f.bulk_genes for f in self.folds)]

        def rows(name: str) -> NDArray[np.float64]:
            return np.concatenate(
                [f.bulk[name][:, [f.bulk_genes.index(g) for g in genes]] for f in self.folds]
            )

        measured = rows(MEASURED)
        if len(measured) < FEWEST_BULKS or not genes:
            return dict.fromkeys(self.names, float("nan"))
        trained = rows(TRAINED) if all(TRAINED in f.bulk for f in self.folds) else None
        return {n: _mean(pseudobulk_correlation(rows(n), measured, trained)) for n in self.names}

    @cached_property
    def _further(self) -> dict[str, Any]:
        """Means over folds of what is not a correlation over spots."""
        return {
            "rmse_hvg": {n: _mean([f.rmse[n] for f in self.folds]) for n in self.names},
            "variance_ratio_hvg": {
                n: _mean([f.variance_ratio[n] for f in self.folds]) for n in self.names
            },
            "moran": {
                n: {
                    k: _mean([f.moran[n][k] for f in self.folds])
                    for k in ("measured", "imputed", "agreement")
                }
                for n in self.names
            },
            "pseudobulk": self.pseudobulk(),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the whole report (schemas/evaluation.schema.json); what is undefined is null."""
        means, about = self.means(), self.about
        structure, genes = self.structure(), self.gene_scores(about.panel)
        document = {
            "format": FORMAT,
            "version": VERSION,
            "held_out": about.held_out,
            "ours": self.ours,
            "recipes": about.recipes,
            "donors": about.donors,
            "features": about.features,
            "methods": about.methods,
            "gene_sets": self.sets,
            "seeds": about.seeds,
            "settings": {
                "why_held_out": about.why,
                "permutations": about.permutations,
                "bootstrap_draws": DRAWS,
                "epochs": about.epochs,
                "structure_of": about.kept,
            },
            "summary": self.summary(),
            "results": {
                name: {k: self._result(name, k, means[name][k]) for k in self.sets}
                for name in self.names
            },
            "comparisons": self.comparisons(),
            "null": self.null(),
            "ceiling": self.ceilings(),
            **self._further,
            "structure": None if structure is None else structure.to_json(),
            "interval_label": self.interval_label,
            "notes": self.notes(),
            "folds_planned": about.planned,
            "folds": [f.to_json() for f in self.folds],
            "genes": {"symbol": about.panel.symbols, "gene_id": about.panel.gene_ids}
            | {name: _listed(values) for name, values in genes.items()},
            "run_card": make_run_card(
                seeds={
                    f"evaluation {i}" if i else "evaluation": s for i, s in enumerate(about.seeds)
                },
                permutations=about.permutations,
                bootstrap_draws=DRAWS,
                bleep_epochs=about.epochs,
            ),
        }
        plain: dict[str, Any] = plain_json(document)
        return plain

    def _result(self, name: str, key: str, mean: float) -> dict[str, Any]:
        low, high = self.interval_of(name, key)
        return {
            "mean": mean,
            "low": low,
            "high": high,
            "sd_over_seeds": number(self.sd_over_seeds(name, key)),
            "undefined": sum(f.undefined[name][key] for f in self.folds),
        }

    def notes(self) -> list[str]:
        """Say what a reader has to know to read the figures."""
        about = self.about
        held = {
            "donor": "Each donor was held out whole",
            "section": "Each section was held out by itself",
            "lists": "Lists say what was held out",
        }[about.held_out]
        made = [
            f"{held} ({about.why}).",
            FITTED,
            CEILING,
        ]
        if about.permutations:
            made.append(
                f"The null shuffles pairs within sections and refits the {LINEAR} recipe, with the "
                "hyperparameters that were chosen on the true pairs and genes read off components "
                "as they are; the observed score beside it is of the same."
            )
        if any(m["family"] == "bleep" for m in about.methods):
            made.append(
                "The bleep rows train the published heads on a frozen backbone, without Harmony, "
                "and keep the last epoch."
            )
        made.append(
            "Values that are smoothed and of low rank correlate with each other, and over space, "
            "more than measurements do: Moran's I and correlations among genes say how much."
        )
        if any(f.in_training_donor for f in self.folds):
            made.append(
                "In some folds the held-out section's donor is among the training donors: scores "
                "on a new donor will be lower."
            )
        missing = [n for n in about.planned if n not in {f.split.name for f in self.folds}]
        if missing:
            made.append(
                f"{len(self.folds)} of {len(about.planned)} folds; without {', '.join(missing)}."
            )
        return made


def _mean_where_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis where defined, else NaN."""
    known = np.isfinite(values)
    total = np.nansum(values, axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known.any(axis=0), total, np.nan)


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    return float(_mean_where_known(np.asarray(values, dtype=np.float64).reshape(-1, 1))[0])


def _number(value: float, digits: int) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None


def _listed(values: NDArray[np.float64]) -> list[float | None]:
    return numbers(np.round(values, 4))


def plain_json(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a document with tuples as lists and numbers that are not finite as None."""
    if isinstance(value, dict):
        return {str(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(v) for v in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
