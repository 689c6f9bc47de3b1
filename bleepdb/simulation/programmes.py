"""Gene programmes: which genes follow which compartment and which gradient, and how strongly.

The symbols are those of real marker genes, so that gene sets and plots look familiar; their
levels are made up. Genes named ``GENE0001`` and on are made up wholly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bleepdb.simulation.settings import COMPARTMENTS, GRADIENTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

# (compartment or gradient or None, strength, level, symbols): strength is the log fold of the
# programme (a compartment against the others, or one SD of a gradient), level the log of the
# gene's abundance elsewhere.
_MARKERS: tuple[tuple[str | None, float, float, str], ...] = (
    ("tumour", 1.5, 2.2, "ERBB2 KRT8 KRT18 KRT19 EPCAM GNAS FASN CD24 XBP1 GRB7 MIEN1 CDH1 ELF3"),
    ("stroma", 1.7, 2.0, "COL1A1 COL1A2 COL3A1 FN1 VIM SPARC DCN LUM BGN COL6A3 THY1 C1S"),
    ("immune", 1.8, 1.4, "CD74 HLA-DRA B2M PTPRC CD3D CXCR4 CD52 CORO1A TRBC2 CCL19 CCL5 IL7R"),
    ("necrosis", 1.4, 0.9, "NDRG1 SLC2A1 VEGFA CA9 S100A8 S100A9 HIF1A LDHA ENO1"),
    ("gland", 1.5, 1.4, "KRT5 KRT14 KRT17 MUC1 ACTG2 OXTR SAA1 LTF KIT"),
    ("grade", 0.55, 0.9, "MKI67 TOP2A PCNA STMN1 TYMS CCNB1 TUBA1B HMGB2 H2AZ1"),
    ("fibrosis", 0.50, 1.0, "ACTA2 POSTN TAGLN COL11A1 FAP MMP11 COL10A1 INHBA"),
    ("infiltration", 0.50, 0.8, "CXCL9 CXCL10 GZMB NKG7 STAT1 IFI27 CD8A LAG3"),
    ("secretion", 0.60, 1.0, "SCGB2A2 PIP LALBA CSN3 WFDC2 SLPI AZGP1"),
    ("plasma", 0.60, 1.6, "IGKC IGHG3 IGHG1 IGLC2 JCHAIN MZB1 DERL3"),
    (None, 0.0, 2.9, "MT-CO1 MT-CO2 MT-CO3 MT-ND1 MT-ND4 MT-ATP6 MT-CYB RPLP0 RPS18 EEF1A1 ACTB"),
)  # fmt: skip
_MARKER_SHARE = 0.7  # of the genes, at most, carry the name of a real marker


@dataclass(frozen=True)
class Programmes:
    """The genes and their true programmes.

    Attributes
    ----------
    symbols
        One a gene.
    level
        (G,) float64, log of the abundance in no compartment's favour.
    compartment
        (C, G) float64, log fold in each compartment.
    gradient
        (K, G) float64, log fold for one SD of each gradient where it acts.
    """

    symbols: tuple[str, ...]
    level: NDArray[np.float64]
    compartment: NDArray[np.float64]
    gradient: NDArray[np.float64]

    def rates(
        self,
        shares: NDArray[np.float64],
        gradients: NDArray[np.float64],
        rna: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mix the compartments of each spot.

        Parameters
        ----------
        shares
            (S, C) area of each compartment in the spot.
        gradients
            (S, C, K) gradients within it.
        rna
            (C,) RNA of an area of each compartment.

        Returns
        -------
        tuple
            (S, G) float64 shares of the spot's RNA, rows sum to 1; (S,) its RNA, relative.
        """
        made = np.zeros((len(shares), len(self.symbols)))
        for c in range(shares.shape[1]):
            # einsum, since a BLAS product may differ in its last bit with the number of threads
            along = np.einsum("sk,kg->sg", gradients[:, c], self.gradient)
            inside = np.exp(self.level + self.compartment[c] + along)
            inside /= inside.sum(axis=1, keepdims=True)
            made += (shares[:, c] * rna[c])[:, None] * inside
        amount = made.sum(axis=1)
        return made / amount[:, None], amount


def draw_programmes(genes: int, rng: np.random.Generator) -> Programmes:
    """Draw the programmes of `genes` genes: known markers first, then made-up ones.

    Of the made-up genes about a quarter follow one compartment, an eighth one gradient, all
    have weak random loadings, and a third are flat.
    """
    names = _marker_order()[: max(1, int(genes * _MARKER_SHARE))]
    level = rng.normal(-0.2, 1.1, genes)
    compartment = rng.normal(0, 0.15, (len(COMPARTMENTS), genes))
    gradient = rng.normal(0, 0.05, (len(GRADIENTS), genes))
    for i, (_, home, strength, base) in enumerate(names):
        level[i] = base + rng.normal(0, 0.5)
        _add(compartment, gradient, i, home, strength * rng.uniform(0.7, 1.2))
    for i in range(len(names), genes):
        kind = rng.uniform()
        if kind < 0.25:
            home = COMPARTMENTS[rng.integers(len(COMPARTMENTS))]
            _add(compartment, gradient, i, home, rng.uniform(0.3, 1.3))
        elif kind < 0.375:
            home = GRADIENTS[rng.integers(len(GRADIENTS))]
            _add(compartment, gradient, i, home, rng.choice((-1.0, 1.0)) * rng.uniform(0.2, 0.6))
        elif kind < 0.7:
            compartment[:, i] = 0.0
            gradient[:, i] = 0.0
    made_up = tuple(f"GENE{i:04d}" for i in range(1, genes - len(names) + 1))
    return Programmes(tuple(n for n, *_ in names) + made_up, level, compartment, gradient)


def for_donor(programmes: Programmes, sd: float, rng: np.random.Generator) -> Programmes:
    """Return the programmes as one donor has them: strengths and levels differ a little."""
    genes = len(programmes.symbols)
    return Programmes(
        programmes.symbols,
        programmes.level + rng.normal(0, sd, genes),
        programmes.compartment * np.exp(rng.normal(0, sd, genes)),
        programmes.gradient * np.exp(rng.normal(0, sd, genes)),
    )


def _marker_order() -> list[tuple[str, str | None, float, float]]:
    """Markers of all groups in turn, so that any cut keeps some of each."""
    groups = [(s.split(), home, strength, base) for home, strength, base, s in _MARKERS]
    longest = max(len(s) for s, *_ in groups)
    return [
        (s[i], home, strength, base)
        for i in range(longest)
        for s, home, strength, base in groups
        if i < len(s)
    ]


def _add(
    compartment: NDArray[np.float64],
    gradient: NDArray[np.float64],
    gene: int,
    home: str | None,
    strength: float,
) -> None:
    """Give a gene its programme; a gradient's gene also marks the compartments it acts in."""
    if home in COMPARTMENTS:
        compartment[COMPARTMENTS.index(home), gene] += strength
    elif home in GRADIENTS:
        k = GRADIENTS.index(home)
        gradient[k, gene] += strength
        main = ("tumour", "stroma", "immune", "gland", "immune")[k]
        compartment[COMPARTMENTS.index(main), gene] += abs(strength)
