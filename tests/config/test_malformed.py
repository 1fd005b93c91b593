"""Malformed files and senseless values: one error each, with file, line and key; never a traceback."""

import random
import re
import shutil
from pathlib import Path
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

import pytest
import yaml

from vixml.config.load import load_runs, load_workflow, load_world, merge, read_yaml
from vixml.config.run import Strict
from vixml.config.tables import load_any_tables, load_figures
from vixml.errors import VixmlError

CONFIG = Path(__file__).parents[2] / "config"


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    return Path(shutil.copytree(CONFIG, tmp_path_factory.mktemp("copy") / "config"))


FORMS = {
    "latin-1": "a: 1\nb: é\n".encode("latin-1"),
    "utf-16": "a: 1\n".encode("utf-16"),
    "utf-32": "a: 1\n".encode("utf-32-be"),
    "nul": b"a: 1\nb: x\0y\n",
    "escaped nul": b'a: 1\nb: "x\\0y"\n',
    "tab": b"a:\n\tb: 1\n",
    "empty": b"",
    "list": b"- a\n",
    "text": b"abc\n",
    "two documents": b"a: 1\n---\nb: 2\n",
    "no such day": b"a: 1\nb: 2026-99-99\n",
    "date": b"a: 2026-11-29\n",
    "not an integer": b"a: 1\nb: !!int a\n",
    "not a truth value": b"a: !!bool maybe\n",
    "not a float": b"a: !!float x\n",
    "not base64": b"a: !!binary x\n",
    "bytes": b"a: !!binary YQ==\n",
    "a set": b"a: !!set {b, c}\n",
    "pairs": b"a: !!omap [b: 1]\n",
    "code": b"a: !!python/object/apply:os.system [ls]\n",
    "twice": b"a: 1\na: 2\n",
    "number as key": b"1: a\n",
    "truth as key": b"yes: a\n",
    "null as key": b"~: a\n",
    "list as key": b"a: 1\n[1, 2]: b\n",
    "mapping as key": b"{a: 1}: b\n",
    "infinite": b"a: -.inf\n",
    "overflow": b"a: 1.0e999\n",
    "not a number": b"a: .nan\n",
    "long integer": b"a: " + b"9" * 5000 + b"\n",
    "more than 63 bits": b"a: 0xffffffffffffffff\n",
    "deep lists": b"a: " + b"[" * 5000 + b"]" * 5000,
    "deep blocks": b"".join(b" " * level + b"a:\n" for level in range(2000)),
    "deep entries": b"a:\n " + b"- " * 5000 + b"1\n",
    "deep pairs": b"a: " + b"{a: " * 5000 + b"1" + b"}" * 5000,
    "aliases": b"a: &a [1, 1]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n, n, n - 1, n - 1) for n in range(98, 122)),
    "alias of itself": b"a: &a [*a]\n",
    "no such alias": b"a: *b\n",
    "surrogate": b'a: "\\ud800"\n',
    "open quote": b'a: "b\n',
    "merge": b"a: &a {b: 1}\nc: {<<: *a}\n",
}


@pytest.mark.parametrize("raw", FORMS.values(), ids=FORMS)
def test_a_malformed_file_is_one_error_with_its_line(tmp_path, raw):
    path = tmp_path / "a.yaml"
    path.write_bytes(raw)
    with pytest.raises(VixmlError) as caught:
        read_yaml(path)
    assert re.fullmatch(rf"{re.escape(str(path))}:\d+", str(caught.value.where)) and len(str(caught.value)) < 1000


def test_a_byte_order_mark_is_none_of_the_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("runs: [a]", "3: runs"),
        ("base: 5\nruns: {a: {}}", "3: base"),
        ("runs: {a: 5}", "3: runs.a"),
        ("runs: {a b: {}}", "3: runs.a b"),
        ("runs: {$(touch x): {}}", "3: runs.$(touch x)"),
        ("runs:\n  a:\n    optimizer: {lr: 0}", "5: runs.a.optimizer.lr"),
        ("runs:\n  a:\n    optimizer: {lr: 1_000_000}", "5: runs.a.optimizer.lr"),
        ("runs:\n  a:\n    training: {epochs: true}", "5: runs.a.training.epochs"),
        ("runs:\n  a: {}\n  b: {inherit: a}\nbase: {training: {epochs: 1.5}}", "6: base.training.epochs"),
        ("runs:\n  a.b:\n    mining: {double_at: [-1]}", "5: runs.a.b.mining.double_at.0"),
        ("runs:\n  a: {prototype: {heads: 99999999999999}}", "4: runs.a.prototype.heads"),
        ("runs:\n  a: {prototype: {heads: -8}}", "4: runs.a.prototype.heads"),
        ("runs:\n  a:\n   loss:\n    margin_max: 0.05", "5: runs.a.loss"),
        ("runs:\n  a:\n    encoder: {max_len: 1e9}", "5: runs.a.encoder.max_len"),
        ("runs:\n  a:\n    inference: {top_k: 1e9}", "5: runs.a.inference.top_k"),
        ("runs:\n  a:\n    training: {batch_size: 1}", "5: runs.a.training.batch_size"),
        ("runs:\n  a:\n    optimizer: {eps: 1e-300}", "5: runs.a.optimizer.eps"),
        (f"runs:\n  a:\n    mining: {{double_at: {[1] * 2000}}}", "5: runs.a.mining.double_at"),
        ("runs: {a: {preset: 5}}", "3: runs.a.preset"),
        ("runs: {a: {inherit: [a]}}", "3: runs.a.inherit"),
        ("runs: {a: {encoder: {model: no}}}", "3: runs.a.encoder.model"),
    ],
)
def test_a_senseless_family_is_one_error_with_line_and_key(copied, text, where):
    path = copied / "runs" / "senseless.yaml"
    path.write_text(f"# a\ndataset: picto\n{text}\n", encoding="utf-8")
    with pytest.raises(VixmlError) as caught:
        load_runs(copied)
    path.unlink()
    assert str(caught.value.where) == f"{path}:{where}"


TARGET = {"dataset": "picto", "runs": ["vixml-minilm-l3"]}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"targets": [TARGET | {"seeds": [-1]}]}, "targets.0.seeds.0"),
        ({"targets": [TARGET | {"seeds": [True]}]}, "targets.0.seeds"),
        ({"targets": [TARGET | {"seeds": [2**32]}]}, "targets.0.seeds.0"),
        ({"targets": [TARGET | {"seeds": []}]}, "targets.0.seeds"),
        ({"targets": [TARGET | {"seeds": [0, 0]}]}, "targets.0.seeds"),
        ({"targets": [TARGET | {"runs": []}]}, "targets.0.runs"),
        ({"targets": TARGET}, "targets"),
        ({"threads": {"train": 0}}, "threads.train"),
        ({"threads": {"train": 10**9}}, "threads.train"),
        ({"results": ""}, "results"),
        ({"results": "/"}, "results"),
        ({"results": "."}, "results"),
        ({"results": "~/x"}, "results"),
        ({"results": str(CONFIG)}, "results"),
        ({"results": str(CONFIG / "runs")}, "results"),
        ({"results": str(CONFIG / "config.yaml")}, "results"),
        ({"results": str(CONFIG.parent / "src" / "vixml")}, "results"),
        ({"results": str(CONFIG.parent / "tests")}, "results"),
        ({"results": "x" * 300}, "results"),
        ({"pages": "/"}, "pages"),
        ({"pages": str(CONFIG.parent)}, "pages"),
        ({"tables": "table1"}, "tables"),
    ],
)
def test_a_senseless_workflow_is_one_error_with_its_key(copied, change, key):
    data = read_yaml(copied / "config.yaml") | {"config_dir": str(copied)} | change
    path = copied / "config.yaml"
    with pytest.raises(VixmlError) as caught:
        load_workflow(data, path)
    assert re.fullmatch(rf"{re.escape(str(path))}(:\d+)?: {re.escape(key)}", str(caught.value.where))


def test_results_are_kept_apart_from_home_and_from_other_things(copied, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "project")
    data = read_yaml(copied / "config.yaml") | {"config_dir": str(copied)}
    (tmp_path / "link").symlink_to(home)
    for held in (home, tmp_path, tmp_path / "link", "..", copied.parent):
        with pytest.raises(VixmlError, match="name one for results alone"):
            load_workflow(data | {"results": str(held)}, "a")
    (home / "photos").mkdir()
    results = [home / "photos", home / "photos" / "new", home / "used"]
    (home / "used" / "runs" / "picto" / "a" / "seed0" / "model").mkdir(parents=True)
    (home / "used" / "runs" / "picto" / "a" / "seed0" / "model" / "manifest.json").touch()
    (home / "used" / "notes.txt").touch()
    assert [load_workflow(data | {"results": str(one)}, "a").results for one in results] == [*map(str, results)]
    (home / "photos" / "data" / "shop").mkdir(parents=True)  # as a first stage that failed leaves
    assert load_workflow(data | {"results": str(home / "photos")}, "a").results == str(home / "photos")
    (home / "photos" / "a.jpg").touch()
    with pytest.raises(VixmlError, match=r"holds other things and no results \(a\.jpg\)"):
        load_workflow(data | {"results": str(home / "photos")}, "a")


def bounds(annotation, metadata):
    """Yield the bounds of every number in a field's type, each number's as a list of names."""
    own = list(metadata)
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        own += [part for one in more for part in getattr(one, "metadata", [one])]
    if annotation in (int, float):
        yield [name for part in own for name in ("ge", "gt", "le", "lt") if hasattr(part, name)]
    for part in get_args(annotation):
        yield from bounds(part, own if get_origin(annotation) in (Union, UnionType) else [])


def test_every_number_of_a_configuration_has_two_bounds():
    import vixml.config.tables  # noqa: F401 -- all models are known to Strict

    models, found = [Strict], []
    while models:
        models += (model := models.pop()).__subclasses__()
        for key, field in model.model_fields.items() if model.__module__.startswith("vixml.config.") else ():
            for names in bounds(field.annotation, field.metadata):
                found.append(key)
                assert sorted(name[0] for name in names) == ["g", "l"], f"{model.__name__}.{key}: {names}"
    assert len(set(found)) > 50


def test_heads_and_layers_fit_the_model(copied):
    path = copied / "runs" / "unfit.yaml"
    for part, key in (
        ("prototype: {heads: 5}", "prototype.heads"),
        ("images: {fusion: late, late: {heads: 7}}", "images.late.heads"),
        ("encoder: {layers: 99}", "encoder.layers"),
    ):
        path.write_text(f"dataset: picto\nruns:\n  unfit:\n    {part}\n", encoding="utf-8")
        data = read_yaml(copied / "config.yaml") | {"config_dir": str(copied)}
        with pytest.raises(VixmlError) as caught:
            load_workflow(data | {"targets": [{"dataset": "picto", "runs": ["unfit"]}]}, copied / "config.yaml")
        assert str(caught.value.where) == f"{path}:4: runs.unfit.{key}"
    path.unlink()


def expect_one_error(path, change, key):
    """Load a registry with a change, which must be one error with line and key; put the file back."""
    text, data = path.read_text(encoding="utf-8"), read_yaml(path)
    path.write_text(yaml.safe_dump(merge(data, change)), encoding="utf-8")
    with pytest.raises(VixmlError) as caught:
        load_world(path.parent)
    path.write_text(text, encoding="utf-8")
    assert re.fullmatch(rf"{re.escape(str(path))}:\d+: {re.escape(key)}", str(caught.value.where))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"picto ": {}}, "datasets.picto "),
        ({"$(touch x)": {}}, "datasets.$(touch x)"),
        ({"a" * 101: {}}, f"datasets.{'a' * 101}"),
        ({"picto": {"propensity": {"a": -1}}}, "datasets.picto.propensity.a"),
        ({"picto": {"test_fraction": 1.5}}, "datasets.picto.test_fraction"),
        ({"picto": {"split_seed": -1}}, "datasets.picto.split_seed"),
        ({"picto": {"fetch": {"per_host": 0}}}, "datasets.picto.fetch.per_host"),
        ({"picto": {"fetch": {"timeout_seconds": 1e9}}}, "datasets.picto.fetch.timeout_seconds"),
        ({"picto": {"image_size": 10**9}}, "datasets.picto.image_size"),
        ({"picto": {"facts": {"avg_labels_per_query": "many"}}}, "datasets.picto.facts"),
    ],
)
def test_a_senseless_registry_is_one_error_with_line_and_key(copied, change, key):
    expect_one_error(copied / "datasets.yaml", {"datasets": change}, key)


@pytest.mark.parametrize(
    "architecture",
    [{"num_hidden_layers": 10**7}, {"hidden_size": "384"}, {"num_attention_heads": 0}, {"vocab_size": 1e30}],
)
def test_a_senseless_architecture_is_one_error_with_line_and_key(copied, architecture):
    change = {"text_models": {"minilm-l3": {"architecture": architecture}}}
    expect_one_error(copied / "models.yaml", change, "text_models.minilm-l3.architecture")


SENSELESS = [None, True, -1, 0, 10**12, 10**30, float("inf"), float("nan")]
SENSELESS += ["", "x y", "$(x)", "\0", [], [[]], {}, {"a": {}}, {1: 2}]


def mutated(data, random_):
    """Return a deep copy of configuration with one part replaced, removed, renamed or added."""
    data, parent = yaml.safe_load(yaml.safe_dump(data)), None
    node = data
    while isinstance(node, dict | list) and node and (parent is None or random_.random() < 0.8):
        parent, key = node, random_.choice(list(node) if isinstance(node, dict) else range(len(node)))
        node = node[key]
    change = random_.randrange(4)
    if change == 0:
        del parent[key]
    elif change == 1 and isinstance(parent, dict):
        parent[random_.choice(["x", "a.b", "é", "preset", "reuse", "inherit", "include"])] = parent.pop(key)
    else:
        parent[key] = random_.choice(SENSELESS)
    return data


@pytest.mark.parametrize("seed", range(2))
def test_a_mutated_configuration_is_accepted_or_refused_in_words(tmp_path, seed, cases=15):
    random_, folder = random.Random(seed), Path(shutil.copytree(CONFIG, tmp_path / "config"))
    files = [
        path for path in sorted(folder.rglob("*.yaml"))
        if path.parent.name in ("config", "runs", "presets", "tables", "figures") and "paper-" not in path.name
    ]  # fmt: skip
    for _ in range(cases):
        path = random_.choice(files)
        raw = path.read_bytes()
        text = yaml.safe_dump(mutated(yaml.safe_load(raw), random_), allow_unicode=True)
        if random_.random() < 0.2:
            at = random_.randrange(len(text))
            odd = random_.choice(["\t", "{", "]", "&a ", "*a", "!!int ", "\n", ": ", '"', "\0"])
            text = text[:at] + odd + text[at:]
        path.write_text(text, encoding="utf-8")
        try:
            load_world(folder)
            load_runs(folder)
            load_any_tables(folder)
            load_figures(folder, ["figure1", "figure2"])
            base = read_yaml(folder / "config.yaml") | {"config_dir": str(folder)}
            load_workflow(base, folder / "config.yaml")
            overlay = read_yaml(path) if path.parent == folder and "targets" in read_yaml(path) else {}
            load_workflow(base | overlay | {"config_dir": str(folder)}, path)
        except VixmlError as error:
            assert ".yaml" in str(error.where) or "/runs" in str(error.where), error
            assert len(str(error)) < 3000
        path.write_bytes(raw)
