"""Behaviour has a digest; words about it have none."""

from __future__ import annotations

import ast
import shutil
import time
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from vixml import digest as digest_module
from vixml.digest import KEPT, LEFT_OUT, ROOT, _parsed, data_files, digest_of, module_hashes, modules_of, stage_digest
from vixml.errors import VixmlError
from vixml.stages import STAGES

ENTRY = '''"""The entry."""

from vixml.helper import number
from .sibling import other

LIMIT = 3
"""What it is for."""


def stage(value):
    """Do it."""
    from vixml.late import late  # heavy

    if value > LIMIT:
        raise VixmlError("too large", found=value)
    return number(value) + other(value) + late(value)
'''


@pytest.fixture
def package(tmp_path):
    """A package of five modules, one of which nobody imports."""
    root = tmp_path / "vixml"
    for name, text in {
        "__init__": '__version__ = "1"\n',
        "entry": ENTRY,
        "helper": "def number(value):\n    return value + 1\n",
        "sibling": "import vixml.errors\n\ndef other(value):\n    return None\n",
        "late": "def late(value):\n    return value\n",
        "errors": "class VixmlError(Exception):\n    pass\n",
        "alone": "X = 1\n",
    }.items():
        root.mkdir(exist_ok=True)
        (root / f"{name}.py").write_text(text, encoding="utf-8")
    return root


def digest(root: Path) -> str:
    # A copy has its own path, so that nothing is remembered from before an edit.
    copy = root.parent / f"copy{time.perf_counter_ns()}" / "vixml"
    shutil.copytree(root, copy)
    return digest_of(module_hashes("vixml.entry", copy))


def test_imports_are_followed_also_inside_functions(package):
    assert modules_of("vixml.entry", package) == ["vixml.entry", "vixml.helper", "vixml.late", "vixml.sibling"]


@pytest.mark.parametrize(
    ("name", "old", "new", "counts"),
    [
        # Words, layout and unused code.
        ("entry", "  # heavy", "  # imported late: it is heavy", False),
        ("entry", '"""Do it."""', '"""Do it well.\n\n    At length.\n    """', False),
        ("entry", '"""What it is for."""\n', "", False),
        ("entry", '"too large", found=value', '"too large", found=value, hint="smaller"', False),
        ("entry", "number(value) + other(value)", "(number( value ) +\n        other(value))", False),
        ("errors", "pass", "x = 1", False),
        ("alone", "X = 1", "X = 2", False),
        ("__init__", '"1"', '"2"', False),
        # Behaviour.
        ("entry", "LIMIT = 3", "LIMIT = 4", True),
        ("entry", "value > LIMIT", "value >= LIMIT", True),
        ("entry", 'raise VixmlError("too large", found=value)', "return 0", True),
        ("helper", "value + 1", "value - 1", True),
        ("late", "return value", "return -value", True),
        ("sibling", "return None", "return 0", True),
        ("sibling", "return None", "return False", True),
        ("sibling", "return None", "return", True),
    ],
)
def test_behaviour_counts_and_words_do_not(package, name, old, new, counts):
    before = digest(package)
    path = package / f"{name}.py"
    assert old in path.read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    assert (digest(package) != before) == counts


@pytest.fixture
def pages(package):
    """The folder of a package that the entry imports."""
    (package / "pages").mkdir()
    (package / "pages" / "__init__.py").touch()
    (package / "entry.py").write_text("import vixml.pages\n", encoding="utf-8")
    return package / "pages"


def test_data_files_of_a_package_count(package, pages):
    (pages / "templates").mkdir()
    template = pages / "templates" / "page.html"
    template.write_text("a", encoding="utf-8")
    before = digest(package)
    template.write_text("b", encoding="utf-8")
    assert digest(package) != before


@pytest.mark.parametrize("name", [
    ".page.html.swp", "page.html~", ".#page.html", "#page.html#", "page.html.orig", ".DS_Store", "4913",
    "__pycache__/entry.cpython-311.pyc.139872233",
])  # fmt: skip
def test_what_editors_and_python_leave_does_not_count(package, pages, name):
    before = digest(package)
    left = pages / name
    left.parent.mkdir(exist_ok=True)
    left.touch()
    assert digest(package) == before


def test_a_data_file_that_vanishes_meanwhile_is_no_error(package, pages, monkeypatch):
    before = digest(package)
    monkeypatch.setattr(digest_module, "data_files", lambda folder: [folder / "page.html"])
    assert digest(package) == before


def test_every_data_file_that_is_shipped_counts():
    patterns = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = {path for pattern in patterns["vixml"] for path in ROOT.glob(pattern) if not is_left_over(path)}
    assert set(data_files(ROOT)) == shipped


def is_left_over(path: Path) -> bool:
    """Return whether somebody edits a file at the moment, or has."""
    return path.name.startswith((".", "#")) or path.name.endswith(("~", ".orig", ".rej", ".swp"))


def test_a_broken_module_is_named(package):
    (package / "helper.py").write_text("def number(:\n", encoding="utf-8")
    with pytest.raises(VixmlError) as caught:
        digest(package)
    assert "helper.py:1" in str(caught.value.where)


def test_an_unknown_stage_is_refused():
    with pytest.raises(VixmlError):
        stage_digest("bake")
    with pytest.raises(VixmlError):
        module_hashes("vixml.nowhere")


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_the_command_of_a_stage_imports_its_module(stage):
    module = stage.module
    assert module in modules_of(module)
    commands = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "cli").glob("*.py"))
    assert f"from {module} import" in commands, "no command calls it"


@pytest.mark.parametrize(
    ("stage", "path", "old", "new"),
    [
        ("predict", "retrieval/peer_program.py", "beam_size=50", "beam_size=10"),
        ("predict", "config/limits.py", "LINEAR_TERMS = 1 << 14", "LINEAR_TERMS = 1 << 10"),
        ("choose-inference", "config/limits.py", "FEWEST_TO_CHOOSE = 500", "FEWEST_TO_CHOOSE = 400"),
        ("train", "training/mining.py", "return 1 << (groups - 1).bit_length()", "return 1 << groups.bit_length()"),
        ("train", "models/siamese.py", 'if precision != "fp32"', 'if precision == "bf16"'),
        ("build-index", "models/siamese.py", 'if precision != "fp32"', 'if precision == "bf16"'),
        ("build-corpus", "config/fields.py", 'text.split("+")', 'text.split(",")'),
    ],
)
def test_what_decides_a_result_and_is_no_setting_counts(tmp_path, stage, path, old, new):
    root, entry = tmp_path / "vixml", STAGES[stage].module
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))
    before = module_hashes(entry, root)
    text = (root / path).read_text(encoding="utf-8")
    assert old in text
    (root / path).write_text(text.replace(old, new), encoding="utf-8")
    _parsed.cache_clear()
    assert digest_of(module_hashes(entry, root)) != digest_of(before)


def test_training_does_not_depend_on_what_comes_after_it():
    reached = modules_of(STAGES["train"].module)
    assert "vixml.config.template" in reached, "how a template is read reaches every vector"
    later = ("vixml.retrieval", "vixml.evaluation", "vixml.report", "vixml.plan", "vixml.check", *LEFT_OUT)
    assert not [module for module in reached if module.startswith(later) and module not in KEPT]
    assert {"vixml.training.losses", "vixml.images.embeddings", "vixml.data.corpus"} <= set(reached)


def imports_of(node: ast.AST, when: str = "load") -> Iterator[tuple[str, str]]:
    """Yield the names that a part of a module imports, and when: at `load`, `late` in a function, or for `typing`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, when) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "imports are absolute"
            yield from ((f"{child.module}.{alias.name}", when) for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from imports_of(child, "typing")
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):  # nothing else imports
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and when == "load"
            yield from imports_of(child, "late" if inside else when)


@pytest.fixture(scope="module")
def imported() -> dict[str, set[tuple[str, str]]]:
    """Module of vixml -> the modules of vixml that it imports, and when."""
    paths = {".".join(("vixml", *path.relative_to(ROOT).with_suffix("").parts)): path for path in ROOT.rglob("*.py")}
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    found = {}
    for name, path in paths.items():
        names = imports_of(ast.parse(path.read_text(encoding="utf-8")))
        # `from a import b`: the module a.b, or something in a.
        modules = ((other if other in paths else other.rpartition(".")[0], when) for other, when in names)
        found[name] = {(other, when) for other, when in modules if other in paths and other != name}
    return found


def test_no_modules_import_each_other_in_a_circle_while_they_load(imported):
    graph = {name: {other for other, when in found if when == "load"} for name, found in imported.items()}
    assert "vixml.files" in graph["vixml.provenance"]
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
    with pytest.raises(CycleError):
        TopologicalSorter(graph | {"vixml.errors": {"vixml.provenance"}}).prepare()


def test_packages_import_only_from_packages_before_them_and_ground_modules_from_none(imported):
    order = [
        "ground", "config", "data", "images", "models", "training", "retrieval", "tagging", "serving", "evaluation", "plan", "report",
        "check", "cli",
    ]  # fmt: skip

    def package(module: str) -> str:
        first = module.split(".")[1:2]
        return first[0] if first and (ROOT / first[0]).is_dir() else "ground"

    for module in imported.keys() - {"vixml", "vixml.__main__"}:
        for other, when in imported[module]:
            # Ground modules may name types of packages, which they get from their callers.
            if not (when == "typing" and package(module) == "ground"):
                assert order.index(package(other)) <= order.index(package(module)), f"{module} imports {other}"


def test_parsed_modules_are_cached_and_the_cache_may_be_lost_or_damaged(tmp_path, monkeypatch):
    def digest(cache: str) -> str:
        _parsed.cache_clear()
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        return digest_of(module_hashes(STAGES["score"].module))

    expected = digest(str(tmp_path))
    kept = list((tmp_path / "vixml/digests").iterdir())
    assert len(kept) == len(modules_of(STAGES["score"].module))
    with monkeypatch.context() as patch:
        patch.setattr("vixml.digest.ast.parse", None)
        assert digest(str(tmp_path)) == expected, "nothing is parsed twice"
    damaged = [b"", b"{}", b'["00", []]', b"\xff", b'["' + b"0" * 64 + b'", [1]]']
    for path, content in zip(kept, damaged * 20, strict=False):
        path.write_bytes(content)
    assert digest(str(tmp_path)) == digest(str(tmp_path)) == digest("/proc/nowhere") == expected
