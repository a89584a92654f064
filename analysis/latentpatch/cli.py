"""Command `latentpatch-report`."""

from __future__ import annotations

import sys
from pathlib import Path

from . import __version__, command, load_results, original, report
from .analyse import analyse
from .export import write_wandb
from .load import LayoutError


def parser() -> command.Parser:
    out = command.Parser(
        prog="latentpatch-report",
        description="Statistics and a report from results files. Writes report.html, report.md, figures/ and tables/.",
    )
    out.add_argument(
        "results", nargs="*", type=Path, metavar="RESULTS.h5", help="results files; two or more are compared as well"
    )
    out.add_argument("-o", "--output", type=Path, default=Path("report"), help="folder to write (default: report)")
    out.add_argument(
        "--original",
        type=Path,
        metavar="DIR",
        help="results folder of the published experiment (per-pair JSON) to import",
    )
    out.add_argument(
        "--pairs", type=Path, metavar="FILE", help="pair file of the published experiment, for its questions"
    )
    out.add_argument("--title", default=None, help="title of the page")
    out.add_argument("--resamples", type=int, default=2000, metavar="N", help="bootstrap resamples (default 2000)")
    out.add_argument(
        "--long",
        action="append",
        choices=("csv", "parquet"),
        default=[],
        help="also write the long format beside the report",
    )
    out.add_argument(
        "--wandb", action="store_true", help="also write an offline Weights & Biases run below the output folder"
    )
    out.add_argument("--quiet", action="store_true", help="print nothing but the path of the page")
    out.add_argument("--version", action="version", version=f"latentpatch-report {__version__}")
    return out


def main(arguments: list[str] | None = None) -> int:
    return command.run("latentpatch-report", lambda: _main(arguments))


def _main(arguments: list[str] | None) -> int:
    args = parser().parse_args(arguments)
    if not args.results and not args.original:
        parser().error("give at least one results file, or --original DIR")
    if args.resamples < 200:
        parser().error(f"--resamples: expected 200 or more, found {args.resamples}")

    def progress(text: str) -> None:
        if not args.quiet:
            command.say("latentpatch-report", text)

    results = [load_results(path) for path in args.results]
    if args.original:
        if not original.is_original(args.original):
            raise LayoutError(args.original, "folder", "gpt2/ and llama/ with both_correct_1tok.json", "no such files")
        results += original.load_original(args.original, args.pairs)
    _unique_labels(results)
    title = args.title or "Activation patching of continuous thoughts"
    inputs = [*args.results, *([args.pairs] if args.pairs else [])]
    page = report.build(
        results, args.output, args.resamples, args.original, title, progress, long=args.long, inputs=inputs
    )
    for r in results if args.wandb else []:
        write_wandb(analyse(r, 0), args.output)
    print(command.printable(str(page), command.MOST))
    return 0


def _unique_labels(results: list) -> None:
    seen: dict[str, int] = {}
    for r in results:
        seen[r.label] = seen.get(r.label, 0) + 1
        if seen[r.label] > 1:
            r.label = f"{r.label} ({seen[r.label]})"


if __name__ == "__main__":
    sys.exit(main())
