"""`python -m latentpatch` is the command `latentpatch`."""

import os
import sys

from .program import find_program

try:
    program = find_program()
    os.execv(program, [program, *sys.argv[1:]])
except OSError as error:
    sys.exit(f"latentpatch: {error}")
