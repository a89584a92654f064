"""Statistics and reports for latentpatch: reads the files of `schemas/`, nothing else."""

from .load import LayoutError, Results, Store, load, load_results, load_store

__all__ = ["LayoutError", "Results", "Store", "load", "load_results", "load_store"]
__version__ = "0.2.0"
