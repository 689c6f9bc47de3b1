"""Growth on made donors: `bleepdb evaluate --growth --by donor` on more donors than the demo makes.

    python benchmarks/bench_growth.py --donors 6 --out growth_out

Six donors of two sections take about six minutes on two cores, most of it to encode tiles.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from bleepdb.cli.main import run
from bleepdb.simulation import SimulationSettings, made_donors, simulate, write


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--donors", type=int, default=6)
    parser.add_argument("--orders", type=int, default=6)
    parser.add_argument("--seed", type=int, default=2023)
    parser.add_argument("--out", type=Path, default=Path("growth_out"))
    asked = parser.parse_args()
    settings = replace(SimulationSettings(), donors=made_donors(asked.donors))
    sheet = write(simulate(settings, seed=asked.seed), asked.out)
    sys.argv = [
        "bleepdb", "evaluate", str(sheet), "--growth", "--by", "donor",
        "--orders", str(asked.orders),
        "--json-out", str(asked.out / "growth.json"), "--figure", str(asked.out / "growth.png"),
    ]  # fmt: skip
    run()


if __name__ == "__main__":
    main()
