"""Output files, by the rules of the program.

Nothing is replaced that could be somebody else's. A file is written under a temporary name that cannot be guessed, in the
folder of its target, flushed, and then given its name only where nothing has that name, where the same bytes are there
already, or where the caller knows that what is there is its own. A link in the last component is followed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

MANIFEST = "latentpatch-report.json"
_FORMAT, _VERSION = "latentpatch-report", 1
OTHER = "exists already with other contents, and is not replaced (name another file, or remove it)"


class OutputError(OSError):
    """A file that cannot be written, or that is not ours to replace."""


def _refused(path: Path | str, why: str) -> OutputError:
    return OutputError(f"{path}: {why}")


def _look(path: Path | str) -> None:
    """Refuses a path that exists and is not a file. A pipe is never opened, because its reader would wait."""
    if os.path.lexists(path) and not os.path.isfile(path):
        raise _refused(path, "expected a file, found a folder, a device, a pipe or a link to nothing")


def make_folder(path: Path | str) -> None:
    """Makes a folder, and those above it, where there is none."""
    place = Path(path)
    for part in [*reversed(place.parents), place]:
        if os.path.lexists(part) and not part.is_dir():
            raise _refused(part, "expected a folder, found a file, a device, a pipe or a link to nothing")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(path, f"cannot make the folder: {os.strerror(error.errno)}") from error


def _sync_folder(folder: str) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # A folder may be writable and not readable.
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _name_new(temporary: str, target: str) -> None:
    """Gives the file its name where nothing has it; FileExistsError otherwise."""
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # A file system without second names.
        if os.path.lexists(target):
            raise FileExistsError(target) from error
        os.rename(temporary, target)
    else:
        os.unlink(temporary)


def write(path: Path | str, data: bytes | str, own: bool = False) -> Path:
    """Writes a file whole or not at all. own: what has the name is the caller's, and is replaced."""
    content = data.encode() if isinstance(data, str) else data
    target = os.path.realpath(path)
    if os.path.lexists(target):
        _look(path)
    temporary = f"{target}.{secrets.token_hex(12)}.tmp"
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if own:
            os.replace(temporary, target)
        else:
            _name_new(temporary, target)
    except FileExistsError:
        if Path(target).read_bytes() != content:
            raise _refused(path, OTHER) from None
    except OSError as error:
        raise _refused(path, f"cannot write: {os.strerror(error.errno)}") from error
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)
    _sync_folder(os.path.dirname(target))
    return Path(path)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_manifest(path: Path) -> dict[str, list[str]]:
    """The digests that each file of an earlier report may have."""
    if not os.path.lexists(path):
        return {}
    _look(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT or found["version"] != _VERSION:
            raise ValueError
        return {str(name): [str(d) for d in digests] for name, digests in found["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _refused(
            path, f"expected the list of a report's files ({_FORMAT} {_VERSION}), found another file"
        ) from None


def _write_manifest(path: Path, files: Mapping[str, Iterable[str]]) -> None:
    head = {"format": _FORMAT, "version": _VERSION}
    write(path, json.dumps(head | {"files": {n: sorted(set(d)) for n, d in sorted(files.items())}}, indent=1), own=True)


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Holds the folder's lock. A file system without locks has none to hold."""
    with contextlib.ExitStack() as held:
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            held.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refused(folder, "another process writes a report here") from None
        except OSError:  # A folder may be writable and not readable.
            pass
        yield


def write_all(files: Mapping[Path, bytes], own: Callable[[bytes], bool]) -> None:
    """Writes files of one command. own: whether these bytes, which are there already, are such a file of an earlier run."""
    replaced = set()
    for path, content in files.items():
        _look(path)
        if not os.path.lexists(path):
            continue
        there = path.read_bytes()
        if there != content and not own(there):
            raise _refused(path, OTHER)
        replaced.add(path)
    for path, content in files.items():
        write(path, content, own=path in replaced)


def write_folder(folder: Path | str, files: Mapping[str, bytes | str], inputs: Iterable[Path | str] = ()) -> None:
    """Writes a report's files below a folder, which may hold an earlier report.

    Everything is looked at before anything is written. What an earlier report wrote, and nobody has changed since, is
    replaced; anything else of the same name is refused, and so is a name that leads to an input.
    """
    folder = Path(folder)
    content = {name: data.encode() if isinstance(data, str) else data for name, data in files.items()}
    make_folder(folder)
    with _only_writer(folder):
        _write_folder(folder, content, inputs)


def _write_folder(folder: Path, content: Mapping[str, bytes], inputs: Iterable[Path | str]) -> None:
    known = _read_manifest(folder / MANIFEST)
    read = []
    for given in map(Path, inputs):
        read += [given] if not given.is_dir() else [p for p in given.rglob("*") if p.is_file()]
    taken = {(s.st_dev, s.st_ino): p for p in read if p.exists() for s in [p.stat()]}
    there_already = set()
    for name in [*content, MANIFEST]:
        path = folder / name
        if not os.path.lexists(path):
            continue
        there_already.add(name)
        found = os.stat(path) if path.exists() else None
        if found and (found.st_dev, found.st_ino) in taken:
            raise _refused(path, f"expected a file of its own, found the input {taken[found.st_dev, found.st_ino]}")
        if name == MANIFEST:
            continue
        _look(path)
        there = path.read_bytes()
        if there != content[name] and _digest(there) not in known.get(name, []):
            raise _refused(
                path, "is not a file of an earlier report, and is not replaced (name another folder, or remove it)"
            )
    for parent in sorted({(folder / name).parent for name in [*content, MANIFEST]}):
        make_folder(parent)
    # First with both digests, so that a report that was interrupted can be made again.
    new = {name: [_digest(data)] for name, data in content.items()}
    _write_manifest(folder / MANIFEST, {n: known.get(n, []) + new.get(n, []) for n in {*known, *new}})
    for name, data in content.items():
        write(folder / name, data, own=name in there_already)
    _write_manifest(folder / MANIFEST, known | new)
