"""The simulator's parameters, in one frozen record with a version.

They were chosen for the look of the tissue and so that mean colour tells little of it, and fixed
before any recipe was tuned on what they make. Constants of drawing (the shape of a nucleus, of a
bundle of fibres) stand beside the code that draws; a change there is a new version too.
"""

from __future__ import annotations

from dataclasses import dataclass

COMPARTMENTS = ("tumour", "stroma", "immune", "necrosis", "gland")
GRADIENTS = ("grade", "fibrosis", "infiltration", "secretion", "plasma")
# Where each gradient (column) acts among the compartments (rows): nuclei, ground and genes alike.
ACTS = (
    (True, False, True, False, False),
    (False, True, True, False, False),
    (False, False, False, False, True),
    (False, False, False, False, False),
    (False, False, True, True, False),
)


@dataclass(frozen=True)
class Compartment:
    """How a kind of tissue looks between its nuclei, and how much of it there is.

    Parameters
    ----------
    name
        One of `COMPARTMENTS`.
    share
        Mean share of the tissue's area; the shares sum to 1.
    rna
        RNA of an area of it, relative to the others.
    ground
        Haematoxylin and eosin between the nuclei (optical density along each stain's vector).
    fibres, grain
        Contrast of the fibrous and of the granular ground texture, relative to `ground`.
    """

    name: str
    share: float
    rna: float
    ground: tuple[float, float]
    fibres: float
    grain: float


@dataclass(frozen=True)
class Cell:
    """A kind of cell: its nucleus, its cytoplasm, and where it lives.

    Parameters
    ----------
    name
        What it is called.
    semi_um
        Semi-axes of the nucleus in µm.
    chromatin, rim, speckle
        Haematoxylin (optical density) inside, its rise at the nuclear border, its roughness.
    nucleoli
        Number of nucleoli.
    cytoplasm
        Radius in µm, haematoxylin and eosin of the cytoplasm; radius 0: none.
    spacing_um
        Least distance between two of its kind, about.
    per_mm2
        Cells a mm² in each compartment, in the order of `COMPARTMENTS`.
    responses
        (gradient, effect on the log of size, effect on the log of number) for one SD of it.
    aligned
        Whether the long axis follows the fibres.
    """

    name: str
    semi_um: tuple[float, float]
    chromatin: float
    rim: float
    speckle: float
    nucleoli: int
    cytoplasm: tuple[float, float, float]
    spacing_um: float
    per_mm2: tuple[float, float, float, float, float]
    responses: tuple[tuple[str, float, float], ...] = ()
    aligned: bool = False


@dataclass(frozen=True)
class Donor:
    """What differs from donor to donor besides the tissue itself: depth, stain, scanner.

    Parameters
    ----------
    name
        The donor's name.
    depth
        Median counts a spot.
    haematoxylin, eosin
        Optical density in red, green and blue of one unit of stain (normalised on use).
    strength
        Amounts of haematoxylin and of eosin relative to the settings.
    glass
        RGB of empty glass, 0 to 255.
    blur_um
        SD of the optical blur in µm.
    noise
        SD of the sensor noise in grey levels.
    stain
        What the sample sheet says of the stain.
    """

    name: str
    depth: float
    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    strength: tuple[float, float]
    glass: tuple[float, float, float]
    blur_um: float
    noise: float
    stain: str = "H&E"


_COMPARTMENTS = (
    Compartment("tumour", 0.31, 1.6, (0.15, 0.28), 0.15, 0.30),
    Compartment("stroma", 0.29, 0.7, (0.25, 0.45), 1.00, 0.20),
    Compartment("immune", 0.13, 1.2, (0.08, 0.28), 0.20, 0.30),
    Compartment("necrosis", 0.10, 0.5, (0.24, 0.40), 0.10, 0.80),
    Compartment("gland", 0.17, 1.0, (0.27, 0.45), 0.60, 0.20),
)
_CELLS = (
    Cell("tumour", (5.2, 4.1), 0.50, 0.32, 0.30, 2, (9.0, 0.05, 0.16), 10.5,
         (6500, 0, 0, 0, 0), (("grade", 0.16, -0.12),)),
    Cell("lymphocyte", (3.1, 2.8), 1.10, 0.10, 0.25, 0, (0.0, 0.0, 0.0), 7.4,
         (700, 600, 10000, 150, 700), (("infiltration", 0.0, 0.80), ("plasma", 0.0, -0.50))),
    Cell("plasma cell", (3.5, 3.1), 0.95, 0.25, 0.45, 0, (7.0, 0.14, 0.42), 10.5,
         (0, 60, 3000, 0, 60), (("plasma", 0.0, 0.70), ("infiltration", 0.0, 0.50))),
    Cell("fibroblast", (8.0, 1.5), 0.95, 0.05, 0.20, 0, (0.0, 0.0, 0.0), 12.0,
         (0, 2200, 0, 0, 1500), (("fibrosis", 0.0, -0.45),), aligned=True),
    Cell("pyknotic", (1.9, 1.5), 1.45, 0.0, 0.20, 0, (0.0, 0.0, 0.0), 9.0,
         (60, 0, 0, 4200, 0)),
    Cell("ghost", (4.6, 3.8), 0.22, 0.10, 0.40, 0, (8.0, 0.0, 0.15), 13.0,
         (0, 0, 0, 2800, 0)),
)  # fmt: skip
_EPITHELIUM = Cell("epithelium", (4.8, 2.6), 0.75, 0.25, 0.25, 1, (0.0, 0.0, 0.0), 0.0, (0,) * 5)
_DONORS = (
    Donor("donor-a", 5000, (0.64, 0.72, 0.28), (0.12, 0.90, 0.38), (1.00, 1.00),
          (242, 240, 243), 0.55, 1.5),
    Donor("donor-b", 9000, (0.68, 0.68, 0.27), (0.08, 0.93, 0.31), (1.10, 0.90),
          (245, 238, 240), 0.70, 2.0),
    Donor("donor-c", 3000, (0.60, 0.74, 0.33), (0.16, 0.88, 0.43), (0.90, 1.12),
          (238, 236, 244), 0.65, 2.5),
)  # fmt: skip


@dataclass(frozen=True)
class SimulationSettings:
    """What `simulate` makes.

    Parameters
    ----------
    version
        Changes whenever the same seed would give other data.
    tissue, species, assay
        What the sample sheet says.
    sections_per_donor, genes
        How many.
    mpp, field_um
        Micrometres per pixel, and the edge of the square image in µm.
    pitch_um, spot_diameter_um
        Square grid of round spots, in µm.
    least_tissue
        A spot is measured where at least this share of it is tissue.
    region_um, gradient_um
        Smoothness (SD of the Gaussian) of the compartments' layout and of the gradients.
    share_concentration
        How alike the sections' compositions are (concentration of a Dirichlet).
    septum
        Half width of the stromal septa in tumour nests, in SDs of their field.
    gland_spacing_um, gland_wall
        Distance of glands; haematoxylin and eosin of their walls.
    stain_sd, stain_um
        SD and smoothness of the uneven staining and thickness, which no gene follows.
    dispersion
        Shape of the gamma in the Poisson-gamma counts.
    library_sd
        SD of the log of the library size among spots.
    library_power
        The library grows with the spot's RNA to this power.
    donor_programme_sd
        How much the strength of each gene's programme differs between donors.
    jpeg_quality
        Of the written images.
    compartments, cells, epithelium, donors
        The parts; `epithelium` lines the glands.
    """

    version: str = "1"
    tissue: str = "breast"
    species: str = "human"
    assay: str = "simulated"
    sections_per_donor: int = 2
    genes: int = 400
    mpp: float = 0.8
    field_um: float = 3400.0
    pitch_um: float = 200.0
    spot_diameter_um: float = 100.0
    least_tissue: float = 0.7
    region_um: float = 170.0
    gradient_um: float = 240.0
    share_concentration: float = 40.0
    septum: float = 0.10
    gland_spacing_um: float = 138.0
    gland_wall: tuple[float, float] = (0.10, 0.42)
    stain_sd: float = 0.08
    stain_um: float = 250.0
    dispersion: float = 12.0
    library_sd: float = 0.35
    library_power: float = 0.3
    donor_programme_sd: float = 0.10
    jpeg_quality: int = 90
    compartments: tuple[Compartment, ...] = _COMPARTMENTS
    cells: tuple[Cell, ...] = _CELLS
    epithelium: Cell = _EPITHELIUM
    donors: tuple[Donor, ...] = _DONORS

    @classmethod
    def tiny(cls) -> SimulationSettings:
        """Return three donors with one small section each: seconds become a fraction of one."""
        return cls(sections_per_donor=1, genes=60, mpp=1.6, field_um=1600.0)
