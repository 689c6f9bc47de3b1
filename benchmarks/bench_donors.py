"""Made donors that differ in depth and stain, each held out once: what helps there, what hurts.

    python benchmarks/bench_donors.py --out donors_out
    python benchmarks/bench_donors.py --out donors_out --wide --seed 303 --donor-seed 7

Every row is a change to the `linear` recipe (or another method) on the same features, folds and
genes: mean correlation on three gene sets, the ratio to the first row in the mean over five sets,
the 95% interval of that difference by a bootstrap over donors, and donors above. Choose on one
seed and judge on another. Six donors take about four minutes of one core to encode, once.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from bleepdb.evaluation import Features, predict_with
from bleepdb.evaluation.held_out import HeldOutTruth
from bleepdb.evaluation.imputing import retrieve
from bleepdb.evaluation.methods import BASELINES, BLEEP_ALL, BLEEP_EQUAL, RIDGE_EQUAL
from bleepdb.evaluation.methods.base import Fold
from bleepdb.metrics import mean_score
from bleepdb.simulation import SimulationSettings, made_donors, simulate, write
from bleepdb.splits import interval, leave_one_donor_out
from bleepdb.tissue import load_section, read_sheet
from bleepdb.training import Pairs, fit
from bleepdb.training.tuning import Target

SETS, SHOWN = ("HEG", "MG", "HVG", "HVGd", "V50"), 3
SCALES_UM = (176.0, 400.0)  # the made slides have 0.8 µm a pixel: no finer field fills a tile
ALPHA = 300.0  # fixed, so that a row shows its own change alone
CHANGES = {
    "penalty 30": {"alpha": 30.0},
    "penalty 3,000": {"alpha": 3e3},
    "penalty 30,000": {"alpha": 3e4},
    "K 50": {"k": 50},
    "K 1,000": {"k": 1000},
    "temperature 0.05": {"temperature": 0.05},
    "temperature 0.2": {"temperature": 0.2},
    "no low rank": {"low_rank": 0},
    "low rank 10": {"low_rank": 10},
    "no smoothing": {"smoothing": 0.0},
    "smoothing 0.15": {"smoothing": 0.15},
    "smoothing 0.5": {"smoothing": 0.5},
    "neighbours not weighted by depth": {"depth_power": 0.0},
    "neighbours weighted by depth": {"depth_power": 1.0},
    "no context": {"context": 0.0},
    "512 axes": {"axes": 512},
}
METHODS = (RIDGE_EQUAL, BLEEP_EQUAL, BLEEP_ALL)


def wide_donors(n: int, seed: int) -> tuple:
    """Draw donors beyond the range of the first three: stain thrice as far, depth 350 to 9,000."""
    known, rng = SimulationSettings().donors, np.random.default_rng(seed)

    def far(donor, field):
        centre = np.mean([getattr(k, field) for k in known], axis=0)
        moved = centre + 3 * (np.array(getattr(donor, field)) - centre)
        return tuple(float(v) for v in np.maximum(moved, 0.02))

    return tuple(
        replace(
            donor,
            depth=float(np.exp(rng.uniform(np.log(350), np.log(9000)))),
            haematoxylin=far(donor, "haematoxylin"),
            eosin=far(donor, "eosin"),
            strength=tuple(rng.uniform(0.7, 1.4, 2).tolist()),
            blur_um=float(rng.uniform(0.5, 1.3)),
            noise=float(rng.uniform(1.5, 4.0)),
        )
        for donor in made_donors(n + 3, seed=seed)[3:]
    )


def changed_features(pairs: Pairs, change) -> Pairs:
    """Return pairs whose features are changed section by section, as a query's could be."""
    return Pairs(
        tuple(replace(s, features=change(s.features).astype(np.float32)) for s in pairs.sections),
        pairs.feature_spec,
    )


def folds_of(pairs: Pairs) -> list[Target]:
    """Leave each donor out once."""
    return [
        Target(pairs.subset(split.train), pairs.subset(split.test))
        for split in leave_one_donor_out({s.section: s.donor for s in pairs.sections})
    ]


def scores(folds: list[Target], predict) -> np.ndarray:
    """(donors, sets) mean correlations of a method."""
    rows = []
    for target in folds:
        held = HeldOutTruth.of(target)
        pcc = held.pcc(predict(target))
        rows.append([mean_score(pcc[held.sets[k]])[0] for k in SETS])
        print(".", end="", flush=True)
    print("\r", end="")
    return np.array(rows)


def linear(**hyper):
    """The linear recipe with some hyperparameters, as a method."""

    def predict(target: Target) -> np.ndarray:
        model = fit(target.inside, "linear", hyper={"alpha": ALPHA} | hyper)
        return predict_with(model, target, target.genes)

    return predict


def centred_profiles(target: Target) -> np.ndarray:
    """Average what is above each reference section's own mean, beside the mean of all.

    What sections differ in as wholes, such as depth, then does not enter through the choice of
    neighbours. Weights stay those of the recipe.
    """
    model = fit(target.inside, "linear", hyper={"alpha": ALPHA})
    found = retrieve(model, target.inside.sections, target.outside.sections)
    mean = target.inside.profiles.mean(axis=0, dtype=np.float64)
    own = target.inside.profiles - mean
    for number in range(len(target.inside.sections)):
        rows = target.inside.section_of_spot == number
        own[rows] -= own[rows].mean(axis=0)
    made = np.concatenate([W @ own for W in found.weights])
    if model.components is not None:
        made = made @ model.components @ model.components.T
    return (mean + made)[:, target.genes]


def show(name: str, found: np.ndarray, base: np.ndarray) -> None:
    """Print one row of the table."""
    gap = (found - base).mean(axis=1)
    draws = np.random.default_rng(0).integers(len(gap), size=(4000, len(gap)))
    low, high = interval(gap[draws].mean(axis=1))
    cells = " ".join(f"{v:.3f}" for v in found.mean(axis=0)[:SHOWN])
    says = "helps" if low > 0 else "hurts" if high < 0 else ""
    print(f"{name:40}{cells}   {found.mean() / base.mean():.3f}x "
          f"[{low:+.4f},{high:+.4f}] {(gap > 0).sum()}/{len(gap)} {says}".rstrip())  # fmt: skip


def main() -> None:
    """Make, encode, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--donors", type=int, default=6)
    parser.add_argument("--sections", type=int, default=1, help="of each donor")
    parser.add_argument("--seed", type=int, default=202, help="of tissue and genes")
    parser.add_argument("--donor-seed", type=int, default=5, help="of depth, stain, blur")
    parser.add_argument("--wide", action="store_true", help="beyond the range of the first three")
    parser.add_argument("--epochs", type=int, default=150, help="of bleep")
    parser.add_argument("--out", type=Path, default=Path("donors_out"))
    asked = parser.parse_args()
    donors = (
        wide_donors(asked.donors, asked.donor_seed)
        if asked.wide
        else made_donors(asked.donors + 3, seed=asked.donor_seed)[3:]
    )
    sheet = asked.out / "samples.csv"
    if not sheet.is_file():
        settings = replace(SimulationSettings(), donors=donors, sections_per_donor=asked.sections)
        write(simulate(settings, seed=asked.seed), asked.out)
    sections = [load_section(row).section for row in read_sheet(sheet)]
    pairs = Features(scales_um=SCALES_UM, tile_px=224).ours(sections)
    for donor in dict.fromkeys(s.donor for s in sections):
        depth = np.median(np.concatenate([s.totals for s in sections if s.donor == donor]))
        print(f"{donor}: {depth:,.0f} counts a spot")
    folds = folds_of(pairs)
    print(
        f"\n{'':40}{'  '.join(SETS[:SHOWN])}     against the first row, mean of {', '.join(SETS)}"
    )
    base = scores(folds, linear())
    show(f"linear, penalty {ALPHA:.0f}", base, base)
    show("penalty by inner folds", scores(folds, linear(alpha=None)), base)
    show("averaged profiles centred by section", scores(folds, centred_profiles), base)
    half = pairs.features.shape[1] // 2
    for name, change in {
        "features centred by section": lambda x: x - x.mean(axis=0),
        "features standardised by section": lambda x: (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6),
        "176 µm scale alone": lambda x: x[:, :half],
        "400 µm scale alone": lambda x: x[:, half:],
    }.items():
        changed = folds_of(changed_features(pairs, change))
        show(name, scores(changed, linear()), base)
        if name.startswith("features centred"):
            show("  and averaged profiles too", scores(changed, centred_profiles), base)
    known = {id(target): Fold(target, None, 0, asked.epochs) for target in folds}
    for method in (m for m in BASELINES if m.name in METHODS):
        show(method.name, scores(folds, lambda t, m=method: m.predict(known[id(t)])), base)
    for name, hyper in CHANGES.items():
        show(name, scores(folds, linear(**hyper)), base)


if __name__ == "__main__":
    main()
