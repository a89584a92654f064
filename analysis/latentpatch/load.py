"""Strict readers of results files and activation stores (schemas/results-layout.md, schemas/store-layout.md).

A reader either returns a whole, consistent object or raises LayoutError with one line: file, place, expected, found.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

CLASSES = ("clean_answer", "corrupted_answer", "other", "gibberish")
LABELS = {
    "clean_answer": "clean answer",
    "corrupted_answer": "corrupted answer",
    "other": "other",
    "gibberish": "gibberish",
}
NOT_RUN = 255
METRICS = (
    "logit_clean",
    "logit_corrupted",
    "logprob_clean",
    "logprob_corrupted",
    "logit_diff",
    "kl",
    "answer_logprob_clean",
    "answer_logprob_corrupted",
)
STEP_NUMBERS = ("cosine", "change", "kl")  # of each thought beside the unpatched run's
PAIR_STRINGS = ("id", "source", "clean_question", "corrupted_question", "clean_text", "corrupted_text")
CONDITION_STRINGS = (
    *("name", "role", "direction", "phase", "site", "layers", "steps", "index"),
    *("donor", "from_site", "operation", "defects"),
)
CONDITION_NUMBERS = (
    *("layer", "head", "step_mask", "n_steps", "vector", "from_layer", "from_step"),
    *("factor", "stop_after", "dead", "identity", "same_as"),
)
# What tells one condition from another; in the CSV in this order.
CSV_CONDITION = (
    *(
        "role",
        "direction",
        "phase",
        "site",
        "layer",
        "layers",
        "head",
        "steps",
        "n_steps",
        "index",
        "donor",
        "vector",
        "draw",
    ),
    *("from_site", "from_layer", "from_step", "operation", "factor", "stop_after", "defects", "dead"),
)
VERSION = 2
SMALL = 1 << 26  # bytes that are allocated without a look at what the file holds
STORE_VERSIONS = (2, 3)  # 2: other checksums and layouts, which a reader of HDF5 does not see
ROLES = ("effect", "control", "unpatched")
DIRECTIONS = ("denoise", "noise")


class LayoutError(Exception):
    """A file is broken, incomplete or not of the expected layout."""

    def __init__(self, path: Path | str, place: str, expected: str, found: str) -> None:
        super().__init__(f"{path}: {place}: expected {expected}, found {found}")
        self.path, self.place, self.expected, self.found = str(path), place, expected, found


@dataclass
class Lens:
    """The logit lens of the unpatched runs; arrays are [P, positions, layers, top], likeliest first; -1 and NaN where a
    pair is not included. Position 0 is the last one of the question, 1 + t is thought step t.
    """

    tokens: dict[str, np.ndarray]  # by run: clean, corrupted
    log_probability: dict[str, np.ndarray]
    texts: dict[int, str]


@dataclass
class Results:
    """One results file in memory. P pairs, C conditions; arrays are [P, C], class 255 where a pair is not included."""

    path: str
    label: str
    pairs: pd.DataFrame
    conditions: pd.DataFrame
    cls: np.ndarray
    number: np.ndarray
    answer: np.ndarray
    changed: np.ndarray
    answers: list[str]
    metrics: dict[str, np.ndarray] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    job: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    lens: Lens | None = None
    steps: dict[str, np.ndarray] = field(default_factory=dict)  # cosine, change, kl: [P, C, thought steps]

    def __repr__(self) -> str:
        return f"Results({self.path!r}, {len(self.included)} of {len(self.pairs)} pairs, {len(self.conditions)} conditions)"

    @property
    def included(self) -> np.ndarray:
        """Indices of the pairs that pass the sweep's filter."""
        return np.flatnonzero(self.pairs["included"].to_numpy())

    @property
    def model(self) -> str:
        return str(self.provenance.get("model", self.label))

    @property
    def n_steps(self) -> int:
        """Thought steps of a whole run; 0 where the file does not say."""
        value = self.job.get("protocol", {})
        return int(value.get("steps") or 0) if isinstance(value, dict) else 0

    def defects(self, index: int | None = None) -> list[str]:
        """Switches of the published scripts that were on: for one condition, or for any of the file."""
        texts = self.conditions["defects"] if index is None else [self.conditions["defects"][index]]
        names = [d for text in [*texts, str(self.provenance.get("defects", ""))] for d in text.split(",") if d]
        return list(dict.fromkeys(names))

    def frame(self) -> pd.DataFrame:
        """The long format: one line per (included pair, condition), the columns of the CSV beside the file."""
        rows, cond = self.included, self.conditions
        n, c = len(rows), len(cond)
        texts = pd.Categorical.from_codes(
            np.append(self._text_codes(), -1)[self.answer[rows].ravel()], self._text_list()
        )
        data: dict[str, Any] = {}
        for name, column in (("pair", "id"), ("source", "source")):
            codes, uniques = pd.factorize(self.pairs[column].to_numpy()[rows])
            data[name] = pd.Categorical.from_codes(np.repeat(codes, c), uniques)
        for name in ("name", *CSV_CONDITION):
            values = cond[name].to_numpy()
            key = "condition" if name == "name" else name
            if values.dtype.kind in "OUST":
                codes, uniques = pd.factorize(values)
                data[key] = pd.Categorical.from_codes(np.tile(codes, n), uniques)
            else:
                data[key] = np.tile(values, n)
        kinds = self.cls[rows].ravel().astype(np.int16)
        data["class"] = pd.Categorical.from_codes(np.where(kinds == NOT_RUN, -1, kinds), CLASSES)
        data["number"] = self.number[rows].ravel()
        data["changed"] = self.changed[rows].ravel()
        data["text"] = texts
        for name, values in self.metrics.items():
            data[name] = values[rows].ravel()
        for step in range(max((v.shape[2] for v in self.steps.values()), default=0)):
            for name, values in self.steps.items():
                data[f"step{step}_{name}"] = values[rows, :, step].ravel()
        return pd.DataFrame(data)

    def _text_list(self) -> list[str]:
        return list(dict.fromkeys(self.answers))

    def _text_codes(self) -> np.ndarray:
        place = {text: i for i, text in enumerate(self._text_list())}
        return np.array([place[text] for text in self.answers], np.int64)

    def xarray(self) -> Any:
        """The same as an `xarray.Dataset` with the dimensions pair and condition."""
        import xarray

        dims = ("pair", "condition")
        arrays = {
            "class": self.cls,
            "number": self.number,
            "changed": self.changed,
            "answer": self.answer,
            **self.metrics,
        }
        coords: dict[str, Any] = {"pair": self.pairs["id"].to_numpy(), "condition": self.conditions["name"].to_numpy()}
        for column in self.pairs.columns.drop("id"):
            coords[f"pair_{column}"] = ("pair", self.pairs[column].to_numpy())
        for column in self.conditions.columns.drop("name"):
            coords[column] = ("condition", self.conditions[column].to_numpy())
        return xarray.Dataset({k: (dims, v) for k, v in arrays.items()}, coords=coords, attrs={"path": self.path})

    def report(self, folder: Path | str = "report", resamples: int = 2000) -> Path:
        """Writes the report (report.html, report.md, figures, tables) into a folder and returns the path of the page."""
        from . import report

        return report.build([self], folder, resamples)

    def _repr_html_(self) -> str:
        from . import notebook

        return notebook.html(self)


class Store:
    """An activation store, opened for reading. Only pairs whose journal state is 1 are ever returned."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self._file = _open(path)
        try:
            self._read(path)
        except BaseException:
            self._file.close()
            raise

    def _read(self, path: Path | str) -> None:
        with _damage(path):
            _check_version(self._file, path, STORE_VERSIONS)
            _need(self._file, path, "/journal/state", 1)
            _need(self._file, path, "/pairs/id", 1)
            _need(self._file, path, "/runs/clean", None)
            _need(self._file, path, "/runs/corrupted", None)
            self.complete = np.flatnonzero(np.asarray(self._file["/journal/state"]) == 1)
            columns = {}
            for name in ("id", "source", "clean_question", "corrupted_question"):
                columns[name] = np.array(_strings(self._file, path, f"/pairs/{name}"), object)[self.complete]
            for name in ("clean_answer", "corrupted_answer"):
                columns[name] = _numbers(self._file, path, f"/pairs/{name}", 1)[:][self.complete]
            self.pairs = pd.DataFrame(columns)
            self.provenance = _attributes(self._file)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def sites(self, run: str = "clean") -> list[str]:
        """Names of the stored sites of a run."""
        return [k for k, v in self._file[f"/runs/{run}"].items() if isinstance(v, h5py.Dataset) and v.ndim >= 3]

    def _site(self, site: str, run: str) -> h5py.Dataset:
        if run not in ("clean", "corrupted"):
            raise LayoutError(self.path, "/runs", "clean or corrupted", repr(run))
        if site not in self.sites(run):
            raise LayoutError(self.path, f"/runs/{run}", f"one of the sites {', '.join(self.sites(run))}", repr(site))
        return _need(self._file, self.path, f"/runs/{run}/{site}", None)

    def __repr__(self) -> str:
        if not self._file:
            return f"Store({self.path!r}, closed)"
        n = len(self._file["/journal/state"])
        return f"Store({self.path!r}, {len(self.complete)} of {n} pairs, sites {', '.join(self.sites())})"

    def layers(self, site: str, run: str = "clean") -> list[int]:
        """Layers along axis 1 of a site; empty for sites without a layer axis."""
        data = self._site(site, run)
        if data.ndim < 4:
            return []
        return np.ravel(data.attrs["layers"]).tolist() if "layers" in data.attrs else list(range(data.shape[1]))

    def activations(
        self, site: str = "resid_post", run: str = "clean", layer: int | None = None, step: int | None = None
    ) -> np.ndarray:
        """Activations of the complete pairs as float32: [pairs, layers, steps, width], less each axis that is fixed."""
        data = self._site(site, run)
        layers = self.layers(site, run)
        if layer is None:
            out = data[:]
        elif layer in layers:
            out = data[:, layers.index(layer)]
        else:
            raise LayoutError(self.path, f"/runs/{run}/{site}", f"a layer of {layers}", str(layer))
        out = out[self.complete]
        if step is not None:
            out = out[..., step, :]
        return out

    def xarray(self, site: str = "resid_post", run: str = "clean") -> Any:
        """A site's activations of the complete pairs as `xarray.DataArray`: pair (its id), layer (where the site has
        one), step (thought sites) or position (others), hidden.
        """
        import xarray

        layers = self.layers(site, run)
        along = "position" if site.startswith(("prompt_", "answer_")) else "step"
        dims = ("pair", "layer", along, "hidden") if layers else ("pair", along, "hidden")
        coords: dict[str, Any] = {"pair": self.pairs["id"].to_numpy()}
        if layers:
            coords["layer"] = layers
        for column in self.pairs.columns.drop("id"):
            coords[column] = ("pair", self.pairs[column].to_numpy())
        attributes = {"site": site, "run": run, "path": self.path}
        values = self.activations(site, run)
        if along == "step":
            coords["step"] = np.arange(values.shape[-2])
        return xarray.DataArray(values, dims=dims, coords=coords, name=site, attrs=attributes)

    def column(self, name: str, run: str = "clean") -> np.ndarray:
        """A per-pair value of a run (`number`, `outcome`, `answer_len`, ...), complete pairs only."""
        return _need(self._file, self.path, f"/runs/{run}/{name}", None)[:][self.complete]


def load(path: Path | str) -> Results | Store:
    """Opens a results file or a store, whichever it is."""
    with _open(path) as file, _damage(path):
        kind = "results" if "rows" in file else "store" if "runs" in file else None
        keys = sorted(file.keys())
    if kind is None:
        raise LayoutError(path, "/", "the groups of a results file (/rows) or of a store (/runs)", f"groups {keys}")
    return load_results(path) if kind == "results" else Store(path)


def load_store(path: Path | str) -> Store:
    """Opens a store; use it in a `with` block."""
    return Store(path)


def load_results(path: Path | str) -> Results:
    """Reads a whole results file and checks it against itself."""
    if str(path).endswith(".partial"):
        raise LayoutError(
            path, "file", "a finished results file", "a .partial file: the sweep has not ended; run it again"
        )
    with _open(path) as file, _damage(path):
        return _read(file, path)


def _check_version(file: h5py.File, path: Path | str, known: tuple[int, ...]) -> None:
    version = file.attrs.get("version")
    if version is None or np.ravel(version)[0] not in known:
        found = "none" if version is None else str(np.ravel(version)[0])
        raise LayoutError(path, "/ attribute version", " or ".join(map(str, known)), found)


def _read(file: h5py.File, path: Path | str) -> Results:
    _check_version(file, path, (VERSION,))
    pairs, conditions = _pairs(file, path), _conditions(file, path)
    p, c = len(pairs), len(conditions)
    cls = _grid(file, path, "/rows/class", p, c)
    _check_classes(file, path)
    number, answer = _grid(file, path, "/rows/number", p, c), _grid(file, path, "/rows/answer", p, c)
    changed = _grid(file, path, "/rows/changed", p, c)
    answers = _strings(file, path, "/answers/text")
    metrics = {m: _grid(file, path, f"/rows/{m}", p, c) for m in METRICS if m in file["/rows"]}
    included = pairs["included"].to_numpy().astype(bool)

    def place(mask: np.ndarray) -> str:
        i, j = np.argwhere(mask)[0]
        return f"pair {pairs['id'][i]}, condition {conditions['name'][j]}"

    bad = (cls > 3) & (cls != NOT_RUN)
    if bad.any():
        raise LayoutError(path, f"/rows/class: {place(bad)}", "0..3 or 255", str(cls[bad][0]))
    # A condition may name a position that a pair's runs lack; the unpatched runs are always there.
    unpatched = (conditions["role"] == "unpatched").to_numpy()
    bad = (cls == NOT_RUN) & included[:, None] & (unpatched | (answer >= 0))
    if bad.any():
        raise LayoutError(
            path,
            f"/rows/class: {place(bad)}",
            "an outcome for every included pair",
            f"255 (not run) in {int(bad.sum())} of {int(included.sum()) * c} cells: the file is incomplete",
        )
    run = (cls != NOT_RUN) & included[:, None]
    bad = run & ((answer < 0) | (answer >= len(answers)))
    if bad.any():
        raise LayoutError(path, f"/rows/answer: {place(bad)}", f"0..{len(answers) - 1}", str(answer[bad][0]))
    counts = _need(file, path, "/counts", 2)[:]
    if counts.shape != (c, 4):
        raise LayoutError(path, "/counts", f"shape ({c}, 4)", f"shape {counts.shape}")
    recount = np.stack([((cls == k) & run).sum(0) for k in range(4)], 1)
    if (recount != counts).any():
        j = int(np.argwhere((recount != counts).any(1))[0, 0])
        raise LayoutError(
            path,
            f"/counts[{j}] ({conditions['name'][j]})",
            f"{recount[j].tolist()} as counted from /rows/class",
            str(counts[j].tolist()),
        )
    if not included.all():
        cls = cls.copy()
        cls[~included] = NOT_RUN
    provenance = _attributes(file)
    try:
        job = json.loads(provenance.get("job", "{}"))
    except (ValueError, TypeError, RecursionError) as error:
        raise LayoutError(path, "/provenance attribute job", "JSON", str(error)) from error
    if not isinstance(job, dict):
        raise LayoutError(path, "/provenance attribute job", "a JSON object", "another value")
    label = Path(path).name.removesuffix(".h5").removesuffix(".results")
    results = Results(
        str(path), label, pairs, conditions, cls, number, answer, changed, answers, metrics, provenance, job
    )
    results.warnings = list(_soft_checks(results))
    results.lens = _lens(file, path, included)
    results.steps = _steps(file, path, p, c)
    return results


def _soft_checks(r: Results) -> Iterator[str]:
    """Things that do not make the file unreadable, but that a reader of the report must know."""
    missing = int((r.cls[r.included] == NOT_RUN).sum())
    if missing:
        yield f"{missing} rows were not run: runs of these pairs lack a position that the condition names"
    rows, cond = r.included, r.conditions
    for j in range(len(cond)):
        first = int(cond["same_as"][j])
        if first != j and (r.cls[rows, j] != r.cls[rows, first]).any():
            yield f"{cond['name'][j]} is marked as a copy of {cond['name'][first]} but its classes differ"
    equal = np.abs(r.pairs["clean_answer"] - r.pairs["corrupted_answer"])[rows] < 0.01
    if equal.any():
        yield f"{int(equal.sum())} included pairs have equal answers: they count as clean_answer by construction"
    repeated = int(r.pairs["id"].duplicated().sum())
    if repeated:
        yield f"{repeated} pair ids occur more than once"


def _pairs(file: h5py.File, path: Path | str) -> pd.DataFrame:
    columns: dict[str, Any] = {name: _strings(file, path, f"/pairs/{name}") for name in PAIR_STRINGS}
    for name in ("clean_answer", "corrupted_answer", "clean_correct", "corrupted_correct", "included"):
        columns[name] = _numbers(file, path, f"/pairs/{name}", 1)[:]
    return _table(columns, path, "/pairs")


def _conditions(file: h5py.File, path: Path | str) -> pd.DataFrame:
    columns: dict[str, Any] = {name: _strings(file, path, f"/conditions/{name}") for name in CONDITION_STRINGS}
    for name in CONDITION_NUMBERS:
        columns[name] = _numbers(file, path, f"/conditions/{name}", 1)[:]
    columns["draw"] = np.zeros(len(columns["name"]), np.int32)
    if "draw" in file["/conditions"]:  # files of version 0.1 lack it
        columns["draw"] = _numbers(file, path, "/conditions/draw", 1)[:]
    table = _table(columns, path, "/conditions")
    if table["name"].duplicated().any():
        twice = table["name"][table["name"].duplicated()].iloc[0]
        raise LayoutError(path, "/conditions/name", "unique names", f"{twice!r} more than once")
    for name, allowed in (("role", ROLES), ("direction", DIRECTIONS)):
        bad = ~table[name].isin(allowed)
        if bad.any():
            raise LayoutError(
                path, f"/conditions/{name}[{int(np.argmax(bad))}]", " or ".join(allowed), repr(table[name][bad].iloc[0])
            )
    same = table["same_as"].to_numpy()
    bad = (same < 0) | (same > np.arange(len(table)))
    if bad.any():
        j = int(np.argmax(bad))
        raise LayoutError(path, f"/conditions/same_as[{j}]", f"an index 0..{j}", str(same[j]))
    return table


def _lens(file: h5py.File, path: Path | str, included: np.ndarray) -> Lens | None:
    place = "/readout/logit_lens"
    if place not in file:
        return None
    ids = _need(file, path, f"{place}/token_id", 1)[:]
    texts = dict(zip(ids.tolist(), _strings(file, path, f"{place}/token_text"), strict=False))
    if len(texts) != len(ids) or len(file[f"{place}/token_text"]) != len(ids):
        raise LayoutError(path, f"{place}/token_text", f"a text for each of {len(ids)} different ids", f"{len(texts)}")
    lens = Lens({}, {}, texts)
    for run in ("clean", "corrupted"):
        tokens = _numbers(file, path, f"{place}/{run}/token", 4)[:]
        values = _numbers(file, path, f"{place}/{run}/log_probability", 4)[:]
        if len(tokens) != len(included) or tokens.shape != values.shape or not tokens.size:
            expected = f"{len(included)} pairs, as many tokens as log-probabilities"
            raise LayoutError(path, f"{place}/{run}", expected, f"shapes {tokens.shape} and {values.shape}")
        unknown = ~np.isin(tokens[included], ids)
        if unknown.any():
            found = str(tokens[included][unknown][0])
            raise LayoutError(path, f"{place}/{run}/token", "ids of token_id in every included pair", found)
        if not (values[included] <= 1e-6).all():
            raise LayoutError(path, f"{place}/{run}/log_probability", "logarithms of probabilities", "NaN or above 0")
        lens.tokens[run], lens.log_probability[run] = tokens, values
    return lens


def _steps(file: h5py.File, path: Path | str, p: int, c: int) -> dict[str, np.ndarray]:
    """How far every thought of a run is from the unpatched one; empty where the job did not ask for it."""
    n = 0
    while f"step{n}_kl" in file["/rows"]:
        n += 1
    names = STEP_NUMBERS if n else ()
    return {k: np.stack([_grid(file, path, f"/rows/step{t}_{k}", p, c) for t in range(n)], -1) for k in names}


def _table(columns: dict[str, Any], path: Path | str, place: str) -> pd.DataFrame:
    sizes = {name: len(values) for name, values in columns.items()}
    first = next(iter(sizes))
    for name, size in sizes.items():
        if size != sizes[first]:
            raise LayoutError(path, f"{place}/{name}", f"{sizes[first]} entries as in {place}/{first}", str(size))
    if not sizes[first]:
        raise LayoutError(path, place, "at least one entry", "none")
    return pd.DataFrame(columns)


@contextlib.contextmanager
def _damage(path: Path | str) -> Iterator[None]:
    """What the checks of single values have not foreseen, as the error of a file: HDF5 and numpy name neither."""
    try:
        yield
    except LayoutError:
        raise
    except Exception as error:
        found = str(error).split("\n")[0] or type(error).__name__
        raise LayoutError(path, "file", "a sound file of this layout", found) from error


def look(path: Path | str, expected: str) -> None:
    """Raises LayoutError where the name leads to no file. A reader of a pipe would wait for ever."""
    if not os.path.isfile(path):
        found = "a folder, a device or a pipe" if os.path.exists(path) else "no such file"
        raise LayoutError(path, "file", expected, found)


def read_json(path: Path | str) -> Any:
    """The content of a JSON file; LayoutError where it is none."""
    look(path, "a JSON file")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise LayoutError(path, f"line {error.lineno}", "JSON", error.msg) from error
    except UnicodeDecodeError as error:
        raise LayoutError(path, f"byte {error.start}", "UTF-8", error.reason) from error
    except RecursionError:
        raise LayoutError(path, "file", "JSON", "values nested too deeply") from None


def _open(path: Path | str) -> h5py.File:
    look(path, "an HDF5 file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise LayoutError(path, "file", "a readable HDF5 file", str(error).split("\n")[0]) from error


def _need(file: h5py.File, path: Path | str, name: str, ndim: int | None) -> Any:
    if name not in file:
        raise LayoutError(path, name, "to be there", "nothing")
    node = file[name]
    if ndim is not None and (not isinstance(node, h5py.Dataset) or node.ndim != ndim):
        raise LayoutError(
            path, name, f"a dataset of {ndim} dimensions", f"{type(node).__name__} {getattr(node, 'shape', '')}"
        )
    if isinstance(node, h5py.Dataset) and node.size:
        # Deflate makes 1032 bytes of one at most. Nothing is allocated for more values than the file can hold.
        size, held = node.size * node.dtype.itemsize, node.id.get_storage_size()
        if size > max(1040 * held, SMALL):
            raise LayoutError(
                path, name, f"at most {1040 * held} bytes of values in {held} bytes of the file", str(size)
            )
    return node


def _numbers(file: h5py.File, path: Path | str, name: str, ndim: int) -> h5py.Dataset:
    data = _need(file, path, name, ndim)
    if data.dtype.kind not in "iufb":
        raise LayoutError(path, name, "numbers", f"values of type {data.dtype}")
    return data


def _grid(file: h5py.File, path: Path | str, name: str, p: int, c: int) -> np.ndarray:
    data = _numbers(file, path, name, 2)
    if data.shape != (p, c):
        raise LayoutError(path, name, f"shape ({p}, {c}) = pairs x conditions", f"shape {data.shape}")
    return data[:]


def _strings(file: h5py.File, path: Path | str, name: str) -> list[str]:
    values = _need(file, path, name, 1)[:]
    out = []
    for i, value in enumerate(values):
        try:
            out.append(value.decode() if isinstance(value, bytes) else str(value))
        except UnicodeDecodeError as error:
            raise LayoutError(path, f"{name}[{i}]", "UTF-8", str(error)) from error
    return out


def _check_classes(file: h5py.File, path: Path | str) -> None:
    stated = file["/rows/class"].attrs.get("classes")
    if stated is None:
        raise LayoutError(path, "/rows/class attribute classes", ",".join(CLASSES), "no such attribute")
    if isinstance(stated, (bytes, str)):
        text = stated.decode() if isinstance(stated, bytes) else stated
        names = [part.strip() for part in text.replace(";", ",").replace(" ", ",").split(",") if part.strip()]
    else:
        names = [v.decode() if isinstance(v, bytes) else str(v) for v in np.asarray(stated).ravel()]
    if tuple(names[:4]) != CLASSES:
        raise LayoutError(path, "/rows/class attribute classes", ",".join(CLASSES), ",".join(names))


def _attributes(file: h5py.File) -> dict[str, Any]:
    if "provenance" not in file:
        return {}
    out: dict[str, Any] = {}
    for key, value in file["provenance"].attrs.items():
        if isinstance(value, bytes):
            out[key] = value.decode("utf-8", "replace")
        elif isinstance(value, np.ndarray):
            out[key] = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value.ravel().tolist()]
        else:
            out[key] = value.item() if isinstance(value, np.generic) else value
    return out
