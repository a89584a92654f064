"""What the commands share: one line for an error, signals that leave no half-written file, standard output that is checked.

Text from outside (names of files, texts in them) is printed with `printable`, so that no character acts on a terminal.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import unicodedata
from collections.abc import Callable
from types import FrameType
from typing import IO

from .load import LayoutError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MOST = 2000  # characters of a line
UNWRITTEN = "standard output could not be written"


class Parser(argparse.ArgumentParser):
    """argparse passes over an error of writing its help; this one does not."""

    def _print_message(self, message: str, file: IO[str] | None = None) -> None:
        (file or sys.stderr).write(message or "")


class _Ended(BaseException):
    """A signal came. As an exception it passes through every clean-up on its way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def printable(text: str, most: int = 80) -> str:
    """The text's first characters. A character that would act on a terminal, or cannot be seen, becomes an escape."""
    out = []
    for c in text[:most]:
        if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029":
            out.append(c.encode("unicode_escape").decode("ascii"))
        else:
            out.append(c)
    return "".join(out) + ("..." if len(text) > most else "")


def say(name: str, text: object) -> None:
    """One line of the command on standard error."""
    print(f"{name}: {printable(str(text), MOST)}", file=sys.stderr)


def _raise(number: int, _frame: FrameType | None) -> None:
    raise _Ended(number)


def _flush() -> None:
    """Raises OSError where something that was printed cannot be written."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        # Python would try again at its end, and then say so in words of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise


def run(name: str, body: Callable[[], int]) -> int:
    """The exit code of a command's body; help and wrong usage end the process, as in argparse. An error is
    one line and 1. A signal of SIGNALS ends the process once every temporary file is removed; SIGHUP stays ignored where
    nohup ignores it.
    """
    before = {n: handler for n in SIGNALS if (handler := signal.getsignal(n)) not in (signal.SIG_IGN, None)}
    leaving, code = None, 1
    try:
        for number in before:
            signal.signal(number, _raise)
        try:
            code = body()
        except SystemExit as end:  # of argparse: help, version, usage
            leaving, code = end, end.code
        except (LayoutError, RuntimeError, OSError) as error:
            # Of a file that the command names, the error says the name.
            printing = isinstance(error, OSError) and error.errno and error.filename is None
            say(name, f"{UNWRITTEN}: {os.strerror(error.errno)}" if printing else error)
    except _Ended as end:
        for number in before:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), end.number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    try:
        _flush()
    except OSError as error:
        if not code:
            say(name, f"{UNWRITTEN}: {os.strerror(error.errno)}")
        return code or 1
    if leaving is not None:
        raise leaving
    return code
