#!/usr/bin/env bash
# format.sh [CLANG_FORMAT]: C and CUDA sources as clang-format 14 leaves them.
case ${1:-} in
  '' | *NOTFOUND) echo "skipped: clang-format-14 was not found"; exit 77 ;;
esac
find src tests bench \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) -print0 | sort -z |
  xargs -0 "$1" --style=file --dry-run -Werror
