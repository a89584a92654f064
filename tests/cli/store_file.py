"""The store as others see it: h5py reads it, checksums are computed anew from schemas/store-layout.md, and what h5py can
do to a store (exchange pairs, link datasets, lay them out otherwise) is found before anything is written by offset.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import io
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
from harness import Case, need

h5py = need("h5py")
numpy = need("numpy")
N = 5


class Hash128(ctypes.Structure):
    _fields_ = (("low", ctypes.c_uint64), ("high", ctypes.c_uint64))


def xxh3(data: bytes) -> bytes:
    """XXH3-128 in canonical form, by libxxhash."""
    library = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
    library.XXH3_128bits.restype = Hash128
    library.XXH3_128bits.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    found = library.XXH3_128bits(data, len(data))
    return struct.pack(">QQ", found.high, found.low)


def checksum(store: Any, pair: int, version: int = 3) -> bytes:
    named = version >= 3
    data = struct.pack("<q", pair) + store["pairs/id"][pair] + b"\0" if named else b""
    for path in store["journal"].attrs["fields"]:
        values = store[path.decode()]
        data += path + b"\0" if named else b""
        data += values[pair].tobytes() if values.dtype.kind != "S" else values[pair].ljust(values.dtype.itemsize, b"\0")
    return xxh3(data)


def replace(store: Any, path: str, **options: Any) -> Any:
    """The dataset made anew, with other options of its creation; values and attributes stay."""
    values, attributes = store[path][...], dict(store[path].attrs)
    del store[path]
    made = store.create_dataset(path, data=values, **options)
    made.attrs.update(attributes)
    return made


class Reads(io.RawIOBase):
    """A file that notes what is read of it, for h5py."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.reads: list[tuple[int, int]] = []

    def readinto(self, buffer: Any) -> int:
        self.reads.append((self.file.tell(), self.file.tell() + len(buffer)))
        return self.file.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


class Store(Case):
    def made(self, **sections: Any) -> Path:
        self.pairs(n=N)
        self.succeed("cache", self.job(**sections))
        return self.folder / "out" / "a.store.h5"

    def changed(self, change: Callable[[Any], None], name: str = "changed.store.h5") -> Path:
        path = self.folder / name
        shutil.copy(self.folder / "out" / "a.store.h5", path)
        with h5py.File(path, "r+") as store:
            change(store)
        return path

    def verified(self, path: Path) -> str:
        """Verified, and reported as bad in one line; what is said of the pairs."""
        run = self.latentpatch("store", "verify", path)
        self.assert_error(run, str(path))
        return run.out + run.lines[0]

    def unwritten(self, path: Path, *words: str) -> None:
        """`cache` refuses this store and leaves it as it was."""
        before = path.read_bytes()
        self.assert_error(self.latentpatch("cache", "job.json", "--set", f"store.file={path}"), str(path), *words)
        self.assertEqual(path.read_bytes(), before)


class Layout(Store):
    def test_chunks_of_one_pair(self) -> None:
        path = self.made(store={"sites": ["k", {"site": "resid_post", "phase": "prompt", "index": [-1]}]})
        sites = 0
        with h5py.File(path) as store:
            self.assertEqual((store.attrs["format"], store.attrs["version"]), (b"latentpatch-store", 3))
            for path_in_file in store["journal"].attrs["fields"]:
                values = store[path_in_file.decode()]
                if values.ndim < 3:
                    self.assertIsNone(values.chunks)
                    continue
                sites += 1
                self.assertEqual(values.chunks, (1, *values.shape[1:]))
                self.assertIsNone(values.compression)
                places = [values.id.get_chunk_info_by_coord((i,) + (0,) * (values.ndim - 1)) for i in range(N)]
                first, size = places[0].byte_offset, places[0].size
                self.assertEqual(size, values[0].nbytes)
                self.assertEqual([place.byte_offset for place in places], [first + i * size for i in range(N)])
        self.assertEqual(sites, 12)

    def test_one_layer_reads_one_chunk(self) -> None:
        path = self.made()
        with path.open("rb") as opened, Reads(opened) as file, h5py.File(file, "r") as store:
            values = store["runs/clean/resid_post"]
            place = values.id.get_chunk_info_by_coord((3, 0, 0, 0))
            chunks = (values.id.get_chunk_info(0).byte_offset, values.id.get_chunk_info(N - 1).byte_offset + place.size)
            file.reads.clear()
            values[3, 1]
            touched = [(a, b) for a, b in file.reads if a < chunks[1] and b > chunks[0]]
            self.assertTrue(touched)
            for a, b in touched:
                self.assertTrue(place.byte_offset <= a and b <= place.byte_offset + place.size, (a, b, place))

    def test_checksums(self) -> None:
        with h5py.File(self.made()) as store:
            for pair in range(N):
                self.assertEqual(store["journal/checksum"][pair].tobytes(), checksum(store, pair))

    def test_one_pair(self) -> None:
        """HDF5 keeps a dataset of one chunk in another way."""
        self.pairs(n=1)
        self.succeed("cache", self.job())
        self.succeed("store", "verify", "out/a.store.h5")


class Altered(Store):
    def test_exchanged_pairs(self) -> None:
        self.made()

        def exchange(store: Any) -> None:
            names = [path.decode() for path in store["journal"].attrs["fields"]] + ["journal/checksum"]
            for values in (store[name] for name in names):
                one, other = values[1], values[3]
                values[1], values[3] = other, one

        found = self.verified(self.changed(exchange))
        self.assertIn("bad: pair 1 (id p00001) does not fit its checksum\n", found)
        self.assertIn("bad: pair 3 (id p00003) does not fit its checksum\n", found)
        self.assertIn("2 of 5 pairs are torn or altered", found)

    def test_exchanged_names(self) -> None:
        """Two datasets of a shape under each other's name, and listed so: the same bytes in the same order."""
        self.made()

        def exchange(store: Any) -> None:
            names = "runs/clean/latent_in", "runs/corrupted/latent_in"
            for name, target in ((names[0], "x"), (names[1], names[0]), ("x", names[1])):
                store.move(name, target)
            fields = store["journal"].attrs["fields"]
            one, other = (list(fields).index(name.encode()) for name in names)
            fields[[one, other]] = fields[[other, one]]
            store["journal"].attrs.modify("fields", fields)

        self.assertIn("5 of 5 pairs are torn or altered", self.verified(self.changed(exchange)))

    def test_another_id(self) -> None:
        self.made()

        def rename(store: Any) -> None:
            ids = store["pairs/id"]
            ids[0], ids[4] = ids[4], ids[0]

        self.assertIn("/pairs/id is altered", self.verified(self.changed(rename)))

    def test_links(self) -> None:
        store = self.made()
        other = self.folder / "other.h5"
        shutil.copy(store, other)
        cases = {
            "runs/clean/resid_post": h5py.SoftLink("/runs/corrupted/resid_post"),
            "runs/corrupted/number": h5py.ExternalLink("other.h5", "/runs/corrupted/number"),
            "runs/clean": h5py.SoftLink("/runs/corrupted"),
            "journal/state": h5py.ExternalLink("other.h5", "/journal/state"),
            "journal": h5py.ExternalLink("other.h5", "/journal"),
            "pairs/source": h5py.SoftLink("/pairs/id"),
            "provenance": h5py.ExternalLink("other.h5", "/provenance"),
        }
        for path, link in cases.items():
            with self.subTest(path):

                def relink(file: Any, path: str = path, link: Any = link) -> None:
                    del file[path]
                    file[path] = link

                kind = "a soft" if isinstance(link, h5py.SoftLink) else "an external"
                words = f"/{path}: expected data of this file, found {kind} link"
                changed = self.changed(relink)
                self.assertIn(words, self.verified(changed))
                self.unwritten(changed, words)

    def test_layouts(self) -> None:
        self.made()
        outside = str(self.folder / "outside.bin")
        shape = {"chunks": (1, 1, 6, 96)}
        cases: dict[str, Callable[[Any], Any]] = {
            "/runs/clean/resid_post: expected chunks of one pair, found contiguous data": lambda store: replace(
                store, "runs/clean/resid_post"
            ),
            "/runs/clean/resid_post: expected chunks of one pair": lambda store: replace(store, "runs/clean/resid_post", **shape),
            "/runs/clean/number: expected contiguous data, found chunks": lambda store: replace(
                store, "runs/clean/number", chunks=(1,)
            ),
            "/runs/clean/answer_len: expected data of this file, found external data": lambda store: replace(
                store, "runs/clean/answer_len", external=[(outside, 0, h5py.h5f.UNLIMITED)]
            ),
            "/journal/state: expected contiguous data, found chunks": lambda store: replace(store, "journal/state", chunks=(2,)),
            "/runs/clean/latent_in and /runs/corrupted/latent_in lie in the same bytes": same_object,
        }
        for words, change in cases.items():
            with self.subTest(words):
                changed = self.changed(change)
                self.assertIn(words, self.verified(changed))
                self.unwritten(changed, words)


class Greedy(Store):
    """Shapes that the file cannot hold, and lists without end."""

    def test_memory(self) -> None:
        self.made()
        big = {"shape": (2**28,), "dtype": "S10", "chunks": (1 << 16,)}
        cases: dict[str, tuple[str, Callable[[Any], Any]]] = {
            "/journal/state: its shape says 4294967296 items of 1 bytes, found 0": (
                "info",
                lambda store: anew(store, "journal/state", shape=(2**32,), dtype="u1", chunks=(1 << 20,)),
            ),
            "/pairs/id: its shape says 268435456 items of 10 bytes, found 0": (
                "info",
                lambda store: anew(store, "pairs/id", **big),
            ),
            "/pairs/extra: its shape says 3 items of 2000000000 bytes, found 0": (
                "verify",
                lambda store: store.create_dataset("pairs/extra", shape=(3,), dtype="S2000000000", chunks=(1,)),
            ),
            "/provenance: expected at most 4096 keys": ("info", many_keys),
        }
        for words, (verb, change) in cases.items():
            with self.subTest(words):
                path = self.changed(change)
                run = self.latentpatch(
                    "store", verb, path, before=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
                )
                self.assert_error(run, words)


def anew(store: Any, path: str, **options: Any) -> None:
    attributes = dict(store[path].attrs)
    del store[path]
    store.create_dataset(path, **options).attrs.update(attributes)


def many_keys(store: Any) -> None:
    store["provenance"].attrs["keys"] = numpy.array([f"k{i}" for i in range(5000)], "S8")


def same_object(store: Any) -> None:
    """Two names of one dataset."""
    del store["runs/corrupted/latent_in"]
    store["runs/corrupted/latent_in"] = store["runs/clean/latent_in"]


def to_version_2(store: Any) -> None:
    """As the program wrote stores until version 3: contiguous, with checksums over the bytes alone."""
    for path in store["journal"].attrs["fields"]:
        if store[path].ndim >= 3:
            replace(store, path.decode())
    del store["journal"].attrs["version"]
    store.attrs.modify("version", 2)
    for pair in range(N):
        if store["journal/state"][pair]:
            store["journal/checksum"][pair] = list(checksum(store, pair, version=2))


class Older(Store):
    def same(self, made: Path, expected: Path) -> None:
        """The same datasets with the same bytes and layouts."""

        def contents(path: Path) -> dict[str, tuple[bytes, Any]]:
            found = {}
            with h5py.File(path) as store:
                store.visititems(
                    lambda name, item: (
                        found.__setitem__(name, (item[...].tobytes(), item.chunks)) if isinstance(item, h5py.Dataset) else None
                    )
                )
            return found

        self.assertEqual(contents(made), contents(expected))

    def test_converted(self) -> None:
        new = self.made()
        old = self.changed(to_version_2, "old.store.h5")
        self.unwritten(old, "expected version 3 of its format, found 2: convert it with `latentpatch store merge NEW.store.h5")
        self.assert_error(self.latentpatch("sweep", "job.json", "--set", f"store.file={old}"), "found 2: convert it with")
        self.succeed("store", "verify", old)
        self.succeed("store", "merge", "new.store.h5", old)
        self.same(self.folder / "new.store.h5", new)
        self.succeed("store", "archive", old, "archive.h5")
        self.succeed("store", "verify", "archive.h5")
        for name in ("new.store.h5", "archive.h5"):
            self.succeed("sweep", "job.json", "--set", f"store.file={name}", "--set", f"results.file=of-{name}/a.results.h5")

    def test_unfinished(self) -> None:
        """A store that was not finished by the older program is converted and finished."""
        new = self.made()

        def forget(store: Any) -> None:
            to_version_2(store)
            store["journal/state"][3] = 0

        old = self.changed(forget, "old.store.h5")
        self.succeed("store", "merge", "new.store.h5", old)
        self.assertIn("4 of 5", self.succeed("store", "info", "new.store.h5").out)
        self.succeed("cache", "job.json", "--set", "store.file=new.store.h5")
        self.succeed("store", "verify", "new.store.h5")
        self.same(self.folder / "new.store.h5", new)


if __name__ == "__main__":
    harness.main()
