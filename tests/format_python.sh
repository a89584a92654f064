#!/usr/bin/env bash
# format_python.sh PYTHON: ruff over all Python of the repository; each folder's own settings hold in it.
"$1" -c 'import ruff' 2>/dev/null || { echo "skipped: the Python package ruff was not found"; exit 77; }
exec "$1" -m ruff check --no-cache analysis bench jobs tests
