"""A document of an evaluation, made up, as the schema says; any number of folds and methods."""

from __future__ import annotations

from itertools import cycle

import numpy as np

from bleepdb.run_card import make_run_card

SETS = ("HEG", "HVG", "HVGd", "V50", "MG", "SVG", "ALL", "HEG without MT/RP", "ALL without MT/RP")
KINDS = ("ours", "none", "published", "colour")


def made_evaluation(
    *, sections=("S1", "S2", "S3"), donors=None, methods=("linear", "mean profile", "ridge, equal"),
    genes=("G1", "G2", "G3", "G4"), sets=SETS, seed=0,
):  # fmt: skip
    """Return a document: one fold a donor, `methods[0]` is ours and compared with the last."""
    rng = np.random.default_rng(seed)
    donor_of = dict(zip(sections, donors or [f"d{i}" for i in range(len(sections))], strict=True))
    names = list(dict.fromkeys(donor_of.values()))
    level = {m: 0.4 - 0.3 * i / len(methods) for i, m in enumerate(methods)}

    def scores():
        return {m: {s: float(level[m] + rng.normal(0, 0.02)) for s in sets} for m in methods}

    def by_method():
        return {m: float(rng.random()) for m in methods}

    def moran():
        return {m: {"measured": 0.2, "imputed": 0.6, "agreement": 0.5} for m in methods}

    def listed(low, high):
        return rng.uniform(low, high, len(genes)).round(4).tolist()

    def matrix():
        return np.corrcoef(rng.normal(size=(len(genes), 20))).round(4).tolist()

    def structure():
        return {
            "genes": list(genes), "measured": matrix(), "imputed": {methods[0]: matrix()},
            "agreement": by_method(),
        }  # fmt: skip

    folds = []
    for name in names:
        test = [s for s, d in donor_of.items() if d == name]
        others = [d for d in names if d != name]
        share = dict.fromkeys(others, 1 / max(len(others), 1))
        folds.append({
            "name": name, "train": [s for s in sections if s not in test] or list(sections),
            "test": test, "in_training_donor": False, "genes": len(genes),
            "set_sizes": dict.fromkeys(sets, 2), "ceiling": dict.fromkeys(sets, 0.8),
            "chosen": {"alpha": 1000.0, "recipe": "linear"}, "scores": scores(),
            "undefined": {m: dict.fromkeys(sets, 0) for m in methods}, "by_seed": {},
            "rmse_hvg": by_method(), "variance_ratio_hvg": by_method(), "moran": moran(),
            "sections": [
                {"section": s, "donor": name, "spots": 100, "scores": scores()} for s in test
            ],
            "mixing": {
                "share": share, "expected": share, "effective_donors": 1.5,
                "expected_effective_donors": float(max(len(others), 1)),
            },
            "samples": {}, "null_samples": {}, "null_observed": {},
            "per_gene": {
                "symbol": list(genes), "gene_id": list(genes), "pcc": listed(-0.2, 0.7),
                "noise_ceiling": listed(0.4, 0.9), "moran": listed(0, 0.5),
            },
            "structure": structure(),
            "pseudobulk": {"genes": [], "measured": [], "imputed": {}},
        })  # fmt: skip
    kinds = cycle(KINDS)
    return {
        "format": "bleepdb-evaluation", "version": 2, "held_out": "donor", "ours": methods[0],
        "recipes": [methods[0]], "donors": donor_of,
        "features": {"ours": {"backbone": "b"}, "published": None, "colour": None},
        "methods": [
            {"name": m, "about": f"about {m}", "family": "f", "features": next(kinds),
             "post": i % 2 == 0, "draws": i % 3 == 0}
            for i, m in enumerate(methods)
        ],
        "gene_sets": list(sets), "seeds": [0, 1],
        "settings": {"why_held_out": "as asked", "permutations": 10, "bootstrap_draws": 20,
                     "epochs": 5, "structure_of": [methods[0]]},
        "results": {
            m: {
                s: {"mean": level[m], "low": level[m] - 0.03, "high": level[m] + 0.04,
                    "sd_over_seeds": None, "undefined": 0}
                for s in sets
            }
            for m in methods
        },
        "comparisons": {
            m: {
                s: {"ratio": 1.3, "difference": 0.1, "low": 0.02, "high": 0.2, "folds_above": 1}
                for s in sets
            }
            for m in methods[-1:]
        },
        "null": {s: {"observed": 0.4, "mean": 0.0, "p99": 0.05, "p_value": 0.01} for s in sets},
        "ceiling": dict.fromkeys(sets, 0.8), "rmse_hvg": by_method(),
        "variance_ratio_hvg": by_method(), "moran": moran(), "structure": structure(),
        "pseudobulk": by_method(), "interval_label": "95% bootstrap over donors",
        "summary": "linear is above an equal ridge on every gene set",
        "notes": ["Gene sets are fitted on training sections."], "folds_planned": names,
        "folds": folds,
        "genes": {
            "symbol": list(genes), "gene_id": list(genes), "pcc": listed(-0.2, 0.7),
            "noise_ceiling": listed(0.4, 0.9), "predictable": [1.0] + [0.0] * (len(genes) - 1),
            "moran": listed(0, 0.5),
        },
        "run_card": make_run_card(seeds={"evaluation": 0}),
    }  # fmt: skip
