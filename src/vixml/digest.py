"""Name the behaviour of a stage's code, so that the workflow reruns what an edit changed and nothing else.

The digest of a stage covers its entry module and every ``vixml`` module reachable from there through imports (those
inside functions too), with the data files that lie in the packages among them (templates). It hashes syntax trees, not
text: comments, docstrings and layout do not count, and neither does the wording of a ``raise VixmlError(...)``. Nothing is
imported. Each job of Snakemake computes it again, so parsed modules are cached in ``~/.cache/vixml/digests``.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import accumulate
from pathlib import Path

from vixml.errors import VixmlError
from vixml.files import write_json
from vixml.stages import STAGES

ROOT = Path(__file__).resolve().parent

# Modules whose effect shows in a stage's params already, or never reaches a result.
LEFT_OUT = (
    "vixml.config",
    "vixml.errors",
    "vixml.progress",
    "vixml.gpus",  # whichever card it is
    "vixml.memory",
    "vixml.provenance",
    "vixml.manifest",
    "vixml.cli",
    "vixml.digest",
    "vixml.torchvision_fix",
)
# But for these: how a template is read decides every sequence, how fields are named every text; limits, what is fitted and chosen;
# layouts and published values, every table.
KEPT = (
    "vixml.config.template",
    "vixml.config.fields",
    "vixml.config.limits",
    "vixml.config.tables",
    "vixml.config.published",
)

DATA = (".csv", ".css", ".html", ".j2", ".js")  # endings of the data files of packages


def stage_digest(stage: str) -> str:
    """Return 16 hex digits that change exactly when the behaviour of a stage's code may have changed.

    Raises:
        VixmlError: no such stage, or a module that is not valid Python.
    """
    return digest_of(stage_modules(stage))


def stage_modules(stage: str) -> dict[str, str]:
    """Return the hash of each module that a stage's digest covers, by name; errors are those of :func:`stage_digest`."""
    if stage not in STAGES:
        raise VixmlError("no such stage", found=stage, expected="one of " + ", ".join(STAGES))
    return module_hashes(STAGES[stage].module)


def digest_of(modules: Mapping[str, str]) -> str:
    """Return the digest of some modules, 16 hex digits, from their names and hashes."""
    digest = hashlib.sha256()
    for name, found in sorted(modules.items()):
        digest.update(f"{name} {found}\n".encode())
    return digest.hexdigest()[:16]


def module_hashes(entry: str, root: Path = ROOT) -> dict[str, str]:
    """Return the hash of ``entry`` and of each module that it imports inside the package at ``root``, by name.

    Raises:
        VixmlError: ``entry`` is no module of the package.
    """
    if _file_of(entry, root) is None:
        raise VixmlError("no such module", where=root, found=entry, hint="correct STAGES in src/vixml/stages.py")
    return {name: _parsed(name, root)[0] for name in modules_of(entry, root)}


def modules_of(entry: str, root: Path = ROOT) -> list[str]:
    """Return the modules that ``entry`` reaches through imports, itself included, sorted."""
    reached, waiting = set(), [entry]
    while waiting:
        name = waiting.pop()
        if name in reached or _left_out(name, root) or _file_of(name, root) is None:
            continue
        reached.add(name)
        waiting += _parsed(name, root)[1]
    return sorted(reached)


def _left_out(name: str, root: Path) -> bool:
    # The __init__ of the package holds the version, which every manifest records.
    known = "vixml" + name.removeprefix(root.name)
    return known not in KEPT and (known == "vixml" or f"{known}.".startswith(tuple(f"{one}." for one in LEFT_OUT)))


@cache
def _file_of(name: str, root: Path) -> Path | None:
    package, _, rest = name.partition(".")
    if package != root.name:
        return None
    base = root.joinpath(*rest.split(".")) if rest else root
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


@cache
def _parsed(name: str, root: Path) -> tuple[str, tuple[str, ...]]:
    """Return the hash of one module's tree, and the names that it imports (some may be no modules)."""
    path = _file_of(name, root)
    source = path.read_bytes()
    tree, imported = _cached(name, path, source) or _parse(name, path, source)
    if path.name != "__init__.py":
        return tree, tuple(imported)
    digest = hashlib.sha256(tree.encode())
    for file in data_files(path.parent):
        with suppress(FileNotFoundError):  # an editor replaces it at this moment
            digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest(), tuple(imported)


def _parse(name: str, path: Path, source: bytes) -> tuple[str, list[str]]:
    """Return the hash of a module's syntax tree and what it imports; keep both for the next process."""
    try:
        tree = ast.parse(source, filename=str(path))
    except SyntaxError as error:
        raise VixmlError("not valid Python", where=f"{path}:{error.lineno}", found=error.msg) from error
    parts: list[str] = []
    _write(tree, parts)
    imported = sorted(set(_imports(tree, name, path.name == "__init__.py")))
    found = hashlib.sha256("".join(parts).encode("utf-8", "surrogatepass")).hexdigest(), imported
    with suppress(OSError, RuntimeError, VixmlError):  # no home folder, no permission or a full disk
        write_json(_cache_file(name, path, source), found)
    return found


def _cached(name: str, path: Path, source: bytes) -> tuple[str, list[str]] | None:
    """Return what an earlier process parsed from the same bytes with the same code, or None."""
    with suppress(OSError, RuntimeError, ValueError, TypeError):
        tree, imported = json.loads(_cache_file(name, path, source).read_bytes())
        if len(tree) == 64 and all(isinstance(module, str) for module in imported):
            return tree, imported
    return None


def _cache_file(name: str, path: Path, source: bytes) -> Path:
    key = hashlib.sha256(Path(__file__).read_bytes() + f"{name} {path.name}\n".encode() + source)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vixml" / "digests" / f"{key.hexdigest()}.json"


def data_files(package: Path) -> list[Path]:
    """Return the files in a package that its code reads, sorted: not what editors, systems and Python leave there."""
    return sorted(p for p in package.rglob("*") if p.suffix in DATA and p.name[0] != "." and p.is_file())


def _imports(tree: ast.AST, name: str, is_package: bool) -> Iterator[str]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                # In a module, one dot is its folder; in an __init__, that is the module itself.
                parts = name.split(".")
                keep = len(parts) - node.level + (1 if is_package else 0)
                base = ".".join(parts[:keep] + ([base] if base else []))
            yield from _with_parents(base)
            for alias in node.names:
                yield f"{base}.{alias.name}"


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield a tree's statements alone, at any depth: nothing else imports, and there are ten times as many other nodes."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, field, ())


def _with_parents(name: str) -> Iterator[str]:
    return accumulate(name.split("."), "{}.{}".format)


def _write(node: object, parts: list[str]) -> None:
    """Append a text that names a syntax tree, the same under every Python version: empty fields are left out."""
    if isinstance(node, ast.AST):
        parts.append(type(node).__name__)
        parts.append("(")
        if not _is_refusal(node):
            for field in node._fields:
                value = getattr(node, field, None)
                if value is None or value == [] or field in {"kind", "type_comment"}:
                    # `None` as a constant is spelt out: it must differ from other constants, not be left out.
                    if field == "value" and isinstance(node, ast.Constant):
                        parts.append("value=None,")
                    continue
                parts.append(field)
                parts.append("=")
                _write(value, parts)
                parts.append(",")
        parts.append(")")
    elif isinstance(node, list):
        parts.append("[")
        for item in node:
            if not _is_text_statement(item):
                _write(item, parts)
                parts.append(",")
        parts.append("]")
    else:
        parts.append(repr(node))


def _is_text_statement(node: object) -> bool:
    # A docstring of a module, class, function or attribute.
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_refusal(node: ast.AST) -> bool:
    # `raise VixmlError(...)` counts as raising; its text reaches no result.
    return (
        isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id == "VixmlError"
    )
