"""Jobs built in Python.

The dataclasses are made from `job.schema.json`, which alone says what keys there are, their types and their defaults. A
key that the schema gains is a field here at once. A key of JSON that Python does not allow as a name gets another one:
`from` is `from_`, and `$schema` is `schema`.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import keyword
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, field, fields, make_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Union

import jsonschema
import numpy as np

from . import load, output, program

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parent / "job.schema.json").read_text(encoding="utf-8"))
_TYPES = {"string": str, "integer": int, "number": float, "boolean": bool, "null": None, "array": list, "object": dict}


class JobError(ValueError):
    """A job that the schema does not allow: its JSON path, what was expected, and what was found."""


class Section:
    """One object of a job file. Its attributes are the keys of the schema; None and the default mean: left out."""

    __slots__ = ()
    _keys: ClassVar[dict[str, str]]  # attribute -> key of JSON
    _sections: ClassVar[dict[str, type[Section]]]  # the attributes that are objects, or lists of objects
    _main: ClassVar[str | None]  # what a plain text stands for: Pairs("p.json") is its file

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            setattr(self, f.name, _default(f) if value is None else _made(self._sections.get(f.name), value))

    def to_dict(self) -> dict[str, Any]:
        """The object as it stands in a job file, without what has its default."""
        out = {}
        for f in fields(self):
            value = _plain(getattr(self, f.name))
            empty = f.name in self._sections and value == {}
            if value is not None and not empty and json.dumps(value) != json.dumps(_plain(_default(f))):
                out[self._keys[f.name]] = value
        return out

    def __repr__(self) -> str:
        given = self.to_dict()
        values = {name: getattr(self, name) for name, key in self._keys.items() if key in given}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in values.items() if v is not None)})"


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, Section):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_plain(entry) for entry in value]
    return value


def _default(f: Any) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()


def _made(section: type[Section] | None, value: Any) -> Any:
    """The value of an attribute, with its objects as dataclasses and everything else as JSON has it."""
    if section is None or value is None or isinstance(value, section):
        return value if isinstance(value, section or Section) else _plain(value)
    if isinstance(value, Mapping):
        names = {key: own for own, key in section._keys.items()}
        return section(**{names.get(key, key): entry for key, entry in value.items()})
    if isinstance(value, str | os.PathLike) and section._main:
        return section(**{section._main: os.fspath(value)})
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_made(section, entry) for entry in value]
    return _plain(value)  # the schema refuses it, and says where


def _resolved(node: Any) -> dict[str, Any]:
    """A node of the schema, with what it refers to."""
    if not isinstance(node, dict):
        return {}
    target = node.get("$ref")
    own = {key: value for key, value in node.items() if key != "$ref"}
    return (_resolved(SCHEMA["$defs"][target.rsplit("/", 1)[-1]]) | own) if target else own


def annotation(node: Any) -> Any:
    """The Python type of what a node of the schema allows."""
    node = _resolved(node)
    if "enum" in node:
        return Literal[tuple(node["enum"])]
    if "const" in node:
        return Literal[node["const"]]
    if "anyOf" in node:
        return Union[tuple(annotation(part) for part in node["anyOf"])]  # noqa: UP007
    if "type" not in node:
        return Any
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    items = list[annotation(node["items"])] if "items" in node else list
    return Union[tuple(items if kind == "array" else _TYPES[kind] for kind in kinds)]  # noqa: UP007


def _is_object(node: Any) -> bool:
    node = _resolved(node)
    kinds = node.get("type", ())
    return "properties" in node and (kinds == "object" or "object" in kinds)


def _class_name(key: str, node: Any) -> str:
    target = node.get("$ref", "") if isinstance(node, dict) else ""
    word = target.rsplit("/", 1)[-1] or key
    return "".join(part.title() for part in re.split(r"\W|_", word))


def _section(name: str, node: dict[str, Any]) -> type[Section]:
    """The dataclass of an object of the schema; those of the objects in it become attributes of this module as well."""
    node = _resolved(node)
    keys, sections, specs, lines = {}, {}, [], []
    for key, part in node["properties"].items():
        attribute = f"{key}_" if keyword.iskeyword(key) else key.lstrip("$")
        keys[attribute] = key
        own = _resolved(part)
        element = own.get("items") if own.get("items") and _is_object(own["items"]) else None
        if _is_object(part) or element:
            sections[attribute] = _section(_class_name(key, element or part), element or part)
        kind = sections[attribute] if _is_object(part) else annotation(part)
        options: dict[str, Any] = {"metadata": {"description": own.get("description", "")}}
        if key in ("comment", "$schema"):  # two jobs that differ in these are the same job
            options["compare"] = False
        if _is_object(part) and not own.get("required"):
            options["default_factory"] = sections[attribute]
        elif "default" in own:
            value = own["default"]
            options |= (
                {"default_factory": lambda value=value: list(value)} if isinstance(value, list) else {"default": value}
            )
        else:
            options["default"] = None
        specs.append((attribute, kind, field(**options)))
        default = f" (default {json.dumps(own['default'])})" if "default" in own else ""
        lines.append(f"    {attribute}: {own.get('description', '') or 'see docs/job.md'}{default}")
    required = node.get("required", [])
    main = required[0] if required else "name" if "name" in keys else None
    made = make_dataclass(
        name,
        specs,
        bases=(Section,),
        namespace={"__doc__": "\n".join([node.get("description", f"{name} of a job."), "", *lines])},
        kw_only=True,
        repr=False,
        slots=True,
    )
    made.__module__ = __name__
    made._keys, made._sections, made._main = keys, sections, main
    globals()[name] = made
    return made


_JobFields = _section("_JobFields", SCHEMA)


def _short_keys() -> dict[str, tuple[str, ...]]:
    """Keys that one place of a job has and no other: "conditions" -> ("sweep", "conditions")."""
    found: dict[str, list[tuple[str, ...]]] = {}

    def look(section: type[Section], place: tuple[str, ...]) -> None:
        for name in section._keys:
            if place:
                found.setdefault(name, []).append((*place, name))
            inner = section._sections.get(name)
            if inner and inner is section.__dataclass_fields__[name].type:
                look(inner, (*place, name))

    look(_JobFields, ())
    return {name: places[0] for name, places in found.items() if len(places) == 1 and name not in _JobFields._keys}


class Job(_JobFields):
    """A job. Keywords are the sections of the job file, or any key that only one section has:

        lp.Job(base="models/gpt2", codi="models/CODI-gpt2", pairs="pairs.json",
               conditions=[lp.patch("resid_post", layers="all", steps="first:1-6")])

    is the job with model.base, model.codi, pairs.file and sweep.conditions. A text given for a section means its file
    (`protocol`: its name; `model`: its base). Without `store` and `results`, the files are called
    `out/MODEL-DIGEST...`: the digest of the job tells one experiment from another. Relative paths are relative to the
    folder of the job file, which is the current folder as long as there is none.

    Raises JobError where the schema does not allow the job.
    """

    __slots__ = ("path",)

    def __init__(self, **keys: Any) -> None:
        sections = {name: value for name, value in keys.items() if name in self._keys}
        for name, value in keys.items():
            if name in sections:
                continue
            if name not in SHORT:
                raise TypeError(_unknown(name))
            node, owner = sections, type(self)
            for part in SHORT[name][:-1]:
                owner = owner._sections[part]
                node[part] = inner = _as_dict(owner, node.get(part))
                node = inner
            node[name] = value
        super().__init__(**sections)
        self.path: Path | None = None
        self.check()

    @classmethod
    def read(cls, path: Path | str) -> Job:
        """A job file. Raises JobError where it is not JSON or the schema does not allow it."""
        try:
            data = load.read_json(path)
        except load.LayoutError as error:
            raise JobError(str(error)) from error
        _validate(data, str(path))
        names = {key: name for name, key in cls._keys.items()}
        job = cls(**{names[key]: value for key, value in data.items()})
        job.path = Path(path)
        return job

    def to_dict(self) -> dict[str, Any]:
        """The job file's content: without keys that have their default, with the names of store and results."""
        out = super().to_dict()
        stem = self._stem(out)
        for name in ("store", "results") if "sweep" in out else ("store",):
            own = out.get(name, {})
            if isinstance(own, dict):
                out[name] = {"file": f"out/{stem}.{name}.h5", **own}
        return out

    def _stem(self, content: dict[str, Any]) -> str:
        model, engine = (content[k] if isinstance(content.get(k), dict) else {} for k in ("model", "engine"))
        name = str(model.get("name") or Path(str(model.get("codi") or model.get("base", "job"))).name)
        own = {key: value for key, value in content.items() if key not in ("comment", "$schema", "results", "engine")}
        own["dtype"] = engine.get("dtype")
        digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]
        safe = re.sub(r"[^\w.+-]", "-", name)
        return f"{safe}-{digest}"

    def check(self) -> None:
        """Raises JobError where the schema does not allow the job as it is now, or JSON has no words for it."""
        content = self.to_dict()
        _validate(content, "")
        _as_json(content)

    @property
    def folder(self) -> Path:
        """What the job's relative paths are relative to."""
        return self.path.parent if self.path else Path()

    def write(self, path: Path | str, replace: bool = False) -> Path:
        """Writes the job file, from now on the job's own. Another file of this name is left alone unless `replace`."""
        self.check()
        text = _as_json(self.to_dict()) + "\n"
        own = replace or (self.path is not None and Path(self.path).resolve() == Path(path).resolve())
        self.path = output.write(path, text, own)
        return self.path

    def plan(self, **how: Any) -> program.Text:
        """What the job would do, as `latentpatch plan` says it. `how`: see `latentpatch.program.run_job`."""
        return program.Text(program.run_job(self, "plan", **how))

    def cache(self, ranks: int = 1, **how: Any) -> load.Store:
        """Runs every pair without patches and opens the store. `how`: see `latentpatch.program.run_job`."""
        program.run_job(self, "cache", ranks, **how)
        return load.load_store(self.folder / self.to_dict()["store"]["file"])

    def run(self, ranks: int = 1, **how: Any) -> load.Results:
        """Does what is missing of the job, on so many MPI ranks, and reads the results. Started again after a stop, it
        continues. `how`: see `latentpatch.program.run_job`.
        """
        program.run_job(self, "run", ranks, **how)
        return load.load_results(self.folder / self.to_dict()["results"]["file"])


def _as_dict(section: type[Section], value: Any) -> dict[str, Any]:
    """A section, in whatever form it was given, as a dictionary that can take more keys."""
    if isinstance(value, Section):
        return value.to_dict()
    if isinstance(value, Mapping):
        return dict(value)
    return {} if value is None else {section._main: value}


SHORT = _short_keys()


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, [*_JobFields._keys, *SHORT], 1)
    places = [place for place in _JobFields._sections if name in _JobFields._sections[place]._keys]
    if places:
        return f"the key {name!r} is in several sections: give it in one of them, as in {places[0]}={{{name!r}: ...}}"
    return f"a job has no key {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _signature() -> inspect.Signature:
    """What an editor offers inside `Job(`."""
    names = {**dict.fromkeys(_JobFields._keys), **SHORT}
    return inspect.Signature([inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names])


Job.__signature__ = _signature()
_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
LONGEST = 300


def _as_json(content: dict[str, Any]) -> str:
    """The content as a job file holds it. Infinity, NaN and half a character are not JSON."""
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError as error:
        raise JobError(f"$: expected values that JSON can hold: {error}") from error
    return text


def _validate(data: Any, file: str) -> None:
    error = jsonschema.exceptions.best_match(_VALIDATOR.iter_errors(data))
    if error is not None:
        text = _words(error)
        text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
        raise JobError(f"{file}{': ' if file else ''}{error.json_path}: {text}")


def _words(error: jsonschema.ValidationError) -> str:
    """What was expected and found. For a text that may be one of several names or of a form, those names: the regular
    expression of the form helps nobody."""
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"the key {missing!r} is missing"
    if error.validator not in ("pattern", "enum") or not isinstance(error.instance, str):
        return error.message
    others = error.parent.context if error.parent is not None else [error]
    here = [other for other in others if other.absolute_path == error.absolute_path]
    names = [name for other in here if other.validator == "enum" for name in other.validator_value if name is not None]
    forms = [
        other.schema["description"] for other in here if other.validator == "pattern" and "description" in other.schema
    ]
    if not names and not forms:
        return error.message
    near = difflib.get_close_matches(error.instance, map(str, names), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"expected {' or '.join([', '.join(map(str, names))] * bool(names) + forms)}, found {error.instance!r}{hint}"


def patch(site: Any = None, **keys: Any) -> Section:
    """A group of conditions that write other values into `site`, or forbid attention (`forbid=`). Keywords are the keys of a
    group in docs/job.md.
    """
    group = globals()["Group"]
    for name in keys:
        if name not in group._keys:
            near = difflib.get_close_matches(name, group._keys, 1)
            raise TypeError(f"a group has no key {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return group(site=site, **keys)
