"""latentpatch from Python: jobs are built, run and read; activations and results are loaded, tested and drawn."""

from .job import Job, JobError, patch
from .load import LayoutError, Results, Store, load, load_results, load_store
from .program import ProgramError, Stopped

__all__ = [
    "Job",
    "JobError",
    "LayoutError",
    "ProgramError",
    "Results",
    "Stopped",
    "Store",
    "load",
    "load_results",
    "load_store",
    "patch",
]
__version__ = "0.2.0"
