"""Settings of the process that make a network on a CPU faster; they change no result.

Two things cost a CPU more than half of its time, as measured (`benchmarks/bench_pipeline.py`
prints it anew): OpenMP's threads spin while they wait, and so take the cores from those that
decode; and memory of activations is given back to the system after each layer and cleared anew.
Both are settled before torch is loaded; the second works for networks that are given as few tiles
at once as `bleepdb.encoders.backbone` does on a CPU, since glibc keeps no piece above 32 MB.

Left out: large pages (``THP_MEM_ALLOC_ENABLE``), which gained nothing once pages are kept, and
``OPENBLAS_NUM_THREADS``, which gained nothing beside a passive OpenMP and would slow exact search.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

OPT_OUT: Final = "BLEEPDB_KEEP_ENVIRONMENT"
"""Set to anything, it leaves the process as it is."""
DEFAULTS: Final = {"OMP_WAIT_POLICY": "passive"}
"""OpenMP's threads sleep rather than spin."""
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
MMAP_BYTES: Final = 2**25
"""The most that glibc takes: allocations below are kept for the next one."""
TRIM_BYTES: Final = 2**29
"""So much of what is free stays with the process."""
THEIRS: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


def tune_process() -> tuple[str, ...]:
    """Apply what is not set yet; return what was applied, in words.

    The command line calls it first of all: it works before torch is loaded, and does nothing
    after. What a person has set in the environment stands.
    """
    if os.environ.get(OPT_OUT) or "torch" in sys.modules:
        return ()
    applied = []
    for name, value in DEFAULTS.items():
        if name not in os.environ:
            os.environ[name] = value
            applied.append(f"{name}={value}")
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if not (set(THEIRS) & set(os.environ) or "glibc.malloc" in tunables) and _keep_pages():
        applied.append(f"malloc keeps {TRIM_BYTES >> 20} MB")
    return tuple(applied)


def _keep_pages() -> bool:
    """Tell glibc to keep freed memory; False where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_BYTES) and mallopt(M_TRIM_THRESHOLD, TRIM_BYTES))
