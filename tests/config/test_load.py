"""Configuration files are read strictly: an error names the file, the key and the nearest spelling."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from vixml.config.load import (
    family_file,
    load_runs,
    load_workflow,
    load_world,
    merge,
    read_yaml,
    registry_files,
    validate,
)
from vixml.config.project import Project
from vixml.config.run import RunConfig
from vixml.config.workflow import WorkflowConfig
from vixml.errors import VixmlError
from vixml.stages import Job

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config_dir(tmp_path):
    """A copy of the repository's configuration with one small family of runs."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    for path in (tmp_path / "config" / "runs").iterdir():
        path.unlink()
    write(tmp_path / "config", {"base": {"encoder": {"max_len": 16}}, "runs": {"a": {"modality": "text"}, "b": None}})
    return tmp_path / "config"


@pytest.fixture
def own(tmp_path, config_dir):
    """A user's configuration beside the project's, whose models it includes."""
    folder = tmp_path / "own"
    (folder / "runs").mkdir(parents=True)
    (folder / "models.yaml").write_text("include: ../config/models.yaml\n", encoding="utf-8")
    entry = {"title": "Mine", "builder": "catalogue", "catalogue": {"folder": "mine"}}
    (folder / "datasets.yaml").write_text(yaml.safe_dump({"datasets": {"mine": entry}}), encoding="utf-8")
    return folder


def write(config_dir: Path, family: dict, name: str = "family") -> None:
    (config_dir / "runs" / f"{name}.yaml").write_text(yaml.safe_dump({"dataset": "picto"} | family), encoding="utf-8")


def resolved(config_dir: Path, run: str) -> RunConfig:
    return Project(config_dir).run("picto", run)


def refused(function, *arguments) -> VixmlError:
    with pytest.raises(VixmlError) as caught:
        function(*arguments)
    error = caught.value
    error.where = re.sub(r"(\.yaml):\d+: ", r"\1: ", str(error.where))  # test_malformed.py checks lines
    return error


def test_every_file_of_the_repository_is_valid():
    world, runs = load_world(ROOT / "config"), load_runs(ROOT / "config")
    for (dataset, _), run in runs.items():
        assert dataset in world.datasets
        assert run.encoder.model in world.text_models and run.images.vision in world.vision_models


# -- YAML ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("a: 1\na: 2\n", "a.yaml:2", "given twice"),
        ("a:\n  b: 1\n  b: 2\n", "a.yaml:3", "given twice"),
        ("a: [1\nb: 2\n", "a.yaml:2", "not valid YAML"),
        ("- 1\n", "a.yaml:1", "not a mapping"),
        (None, "a.yaml", "missing"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, text, where, says):
    if text is not None:
        (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    error = refused(read_yaml, tmp_path / "a.yaml")
    assert error.where.endswith(where) and says in str(error)


@pytest.mark.parametrize("text", ["010", "1:30", "0x10", "0b1", "+0_1"])
def test_numbers_that_are_not_decimal_are_refused(tmp_path, text):
    """YAML 1.1 reads 010 as 8 and 1:30 as 90."""
    (tmp_path / "a.yaml").write_text(f"b: 1\na: {text}\n", encoding="utf-8")
    error = refused(read_yaml, tmp_path / "a.yaml")
    assert error.where.endswith("a.yaml:2") and f"{text} is no decimal number" in str(error)


@pytest.mark.parametrize(("text", "value"), [
    ("1e-3", 0.001), ("2.5e4", 25000.0), ("-1E+2", -100.0), ("1e3", 1000.0), ("1_000", 1000), ("-3", -3), ("+7", 7), ("0", 0),
    ("'010'", "010"),
])  # fmt: skip
def test_decimal_numbers_are_read(tmp_path, text, value):
    (tmp_path / "a.yaml").write_text(f"a: {text}\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"a": value}


@pytest.mark.parametrize(
    ("model", "data", "key", "near"),
    [
        (RunConfig, {"encodr": {}}, "encodr", "encoder"),
        (RunConfig, {"encoder": {"maxlen": 3}}, "encoder.maxlen", "max_len"),
        (RunConfig, {"mining": {"starts": 1}}, "mining.starts", "start"),
        # An unknown key is named before a wrong value or a missing key.
        (RunConfig, {"training": {"epoch": 1, "batch_size": "many"}}, "training.epoch", "epochs"),
        (WorkflowConfig, {"target": []}, "target", "targets"),
        (WorkflowConfig, {"targets": [{"dataset": "picto", "run": []}]}, "targets.0.run", "runs"),
    ],
)
def test_an_unknown_key_names_the_nearest(model, data, key, near):
    error = refused(validate, model, data, "here")
    assert error.what == f"unknown key {key.split('.')[-1]!r}"
    assert error.where == f"here: {key}" and repr(near) in error.hint


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"training": {"epochs": -1}}, "training.epochs"),
        ({"modality": "images"}, "modality"),
        ({"loss": {"margin_min": 0.5, "margin_max": 0.1}}, "loss"),
        ({"method": "none"}, "nothing to train"),
        ({"inference": {"image_weight": 0.5}}, "image_weight"),
        ({"method": "NGAME", "inference": {"method": "local-ridge"}}, "prototype_weight"),
    ],
)
def test_values_that_make_no_sense_are_refused(data, says):
    error = refused(validate, RunConfig, data, "here")
    assert says in f"{error.what} {error.where}"


def test_merge_replaces_all_but_mappings():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1, "c": {"z": 1}}
    assert merge(base, {"a": {"y": [3]}, "c": None}) == {"a": {"x": 1, "y": [3]}, "b": 1, "c": None}
    assert base["a"]["y"] == [1, 2], "the base is left as it was"


# -- runs ---------------------------------------------------------------------------------------------------------------


def test_a_run_is_base_then_parent_then_its_keys(config_dir):
    parent = {"training": {"epochs": 6}, "images": {"per_item": 2}}
    runs = {"p": parent, "c": {"inherit": "p", "training": {"epochs": 7}}}
    write(config_dir, {"base": {"training": {"epochs": 5, "batch_size": 10}}, "runs": runs})
    run = resolved(config_dir, "c")
    assert (run.training.epochs, run.training.batch_size, run.images.per_item) == (7, 10, 2)


def test_a_preset_lies_beneath_the_keys_that_name_it(config_dir):
    presets = config_dir / "presets"
    (presets / "form.yaml").write_text("loss: {ties: half, negatives: 7}\ntraining: {epochs: 5}\n")
    (presets / "recipe.yaml").write_text("preset: form\nloss: {negatives: 8}\nencoder: {max_len: 9}\n")
    runs = {
        "a": {"loss": {"negatives": 3}},
        "b": {"inherit": "a", "preset": "form"},
        "c": {"preset": "form", "loss": {"negatives": 1}},
        "d": {"reuse": "c", "inference": {"top_k": 7}},
    }
    write(config_dir, {"base": {"preset": "recipe", "training": {"batch_size": 4}}, "runs": runs})
    found = {run: config for (_, run), config in load_runs(config_dir).items()}
    assert [found[run].loss.negatives for run in "abcd"] == [3, 7, 1, 1]
    for config in found.values():
        assert config.loss.ties == "half" and config.training.epochs == 5 and config.training.batch_size == 4
        assert config.encoder.max_len == 9
    assert not hasattr(found["a"], "preset"), "a resolved run has keys, and no name for them"


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("preset: official\n", "", ""),
        ("preset: mine\n", "presets/mine.yaml: preset", "names none"),
        ("preset: official-encoder\n", "presets/official-encoder.yaml: preset", "names none"),
        ("preset: offical\n", "presets/mine.yaml.preset", "unknown preset 'offical'"),
        ("preset: ../runs/family\n", "presets/mine.yaml.preset", "unknown preset"),
        ("preset: [1]\n", "presets/mine.yaml.preset", "unknown preset"),
        ("loss: {tie: half}\n", "presets/mine.yaml: loss.tie", "unknown key 'tie'"),
        ("inherit: a\n", "presets/mine.yaml: inherit", "unknown key"),
    ],
)
def test_presets_are_checked_where_they_are_written(config_dir, text, where, says):
    (config_dir / "presets" / "mine.yaml").write_text(text)
    write(config_dir, {"runs": {"a": {"preset": "mine"}}})
    if not says:
        assert load_runs(config_dir)["picto", "a"].loss.ties == "half"
        return
    error = refused(load_runs, config_dir)
    assert error.where.endswith(where) and says in error.what, str(error)


def test_presets_of_an_included_registry_can_be_named_and_replaced(own, config_dir):
    write(own, {"base": {"preset": "official"}, "runs": {"a": None}})
    assert resolved(own, "a").loss.ties == "half"
    (own / "presets").mkdir()
    (own / "presets" / "official.yaml").write_text("training: {epochs: 3}\n")
    assert (resolved(own, "a").loss.ties, resolved(own, "a").training.epochs) == ("none", 3)


AUGMENTED = {"reuse": "a", "inference": {"method": "retrieval-augmented", "top_k": 50}, "row": {"label": "A+"}}


def test_a_run_may_reuse_a_trained_model_with_its_own_inference_and_row(config_dir):
    keys = {"inference": {"labels_as": "u", "top_k": 20}, "encoder": {"layers": 2}}
    keys |= {"row": {"label": "A", "note": "Small."}}
    runs = {"p": {"training": {"epochs": 3}}, "a": {"inherit": "p"} | keys, "b": AUGMENTED, "c": {"reuse": None}}
    write(config_dir, {"base": {"encoder": {"max_len": 16}}, "runs": runs})
    a, b = resolved(config_dir, "a"), resolved(config_dir, "b")
    # Settings are those of the reused run, its inference included, where the reusing run names no others.
    assert (b.reuse, b.encoder.max_len, b.encoder.layers, b.training.epochs) == ("a", 16, 2, 3)
    assert (b.inference.method, b.inference.labels_as, b.inference.top_k) == ("retrieval-augmented", "u", 50)
    assert (b.row.label, b.row.note) == ("A+", "")
    left_out = {"reuse", "inference", "row"}
    assert a.reuse is None and a.model_dump(exclude=left_out) == b.model_dump(exclude=left_out)
    assert a.inference.top_k == 20 and resolved(config_dir, "c").reuse is None


def test_null_says_what_leaving_a_key_out_says(config_dir):
    (config_dir / "presets/empty.yaml").write_text("preset: null\ntraining: {epochs: 5}\n", encoding="utf-8")
    none = {"preset": None, "inherit": None, "reuse": None}
    runs = {"a": none | {"training": {"epochs": 3}}, "b": none | {"inherit": "a"}, "c": none | {"reuse": "a"}}
    (config_dir / "presets/outer.yaml").write_text("preset: empty\n", encoding="utf-8")
    write(config_dir, {"base": none, "runs": runs | {"d": {"preset": "outer"}}})
    assert [resolved(config_dir, run).training.epochs for run in "abcd"] == [3, 3, 3, 5]
    assert resolved(config_dir, "c").reuse == "a"


def test_runs_of_several_datasets_and_of_another_file(config_dir):
    """What is inherited from another file comes first, with that file's base; then the base, then the run's own keys."""
    first = {"a": {"training": {"epochs": 3, "batch_size": 9}}}
    write(config_dir, {"base": {"encoder": {"max_len": 8}}, "runs": first})
    other = {"dataset": "LF-Amazon-131K", "runs": {"a": {"training": {"epochs": 30, "batch_size": 90}}}}
    write(config_dir, other, "other")
    ours = {
        "dataset": ["picto", "LF-Amazon-131K"],
        "base": {"training": {"batch_size": 5}, "encoder": {"layers": 2}},
        "runs": {"m": {"inherit": "a", "encoder": {"layers": 1}}, "n": {"reuse": "a"}, "o": {"reuse": "m"}, "p": None},
    }
    write(config_dir, ours, "both")
    runs = load_runs(config_dir)
    assert set(runs) == {(d, r) for d in ("picto", "LF-Amazon-131K") for r in "amnop"}

    def numbers(dataset: str, run: str) -> tuple:
        one = runs[dataset, run]
        return one.encoder.max_len, one.encoder.layers, one.training.epochs, one.training.batch_size

    assert numbers("picto", "m") == numbers("picto", "o") == (8, 1, 3, 5)
    assert numbers("LF-Amazon-131K", "m") == numbers("LF-Amazon-131K", "o") == (32, 1, 30, 5)
    assert numbers("picto", "n") == (8, None, 3, 9) and numbers("LF-Amazon-131K", "n") == (32, None, 30, 90)
    assert numbers("picto", "p") == numbers("LF-Amazon-131K", "p") == (32, 2, 150, 5)
    assert family_file(config_dir, "LF-Amazon-131K", "m").name == "both.yaml"
    # Of one dataset the run that is inherited from is missing.
    write(config_dir, other | {"runs": {"aa": None}}, "other")
    error = refused(load_runs, config_dir)
    assert error.where.endswith("both.yaml: runs.m.inherit") and "did you mean 'aa'?" in str(error)
    write(config_dir, other | {"runs": {"a": None, "m": None}}, "other")
    assert "a run is defined twice" in str(refused(load_runs, config_dir))


SPLITS = {f"s{n}": {"inherit": "a", "training": {"validation": 0.2, "validation_split": n}} for n in (1, 2)}
CHOSEN_ON = "b.inference.chosen_on"


def chosen_on(*runs):
    return {"reuse": "a", "inference": {"method": "chosen", "chosen_on": list(runs)}}


def test_inference_may_be_chosen_on_several_runs(config_dir):
    runs = {"a": {"modality": "text"}, "b": chosen_on("s1", "s2")} | SPLITS
    write(config_dir, {"runs": runs})
    names = {"dataset": "picto", "run": "b", "seed": 3}
    job = Job(Project(config_dir, config_dir / "results"), "choose-inference", names)
    found = {name: folder.relative_to(config_dir / "results").as_posix() for name, folder in job.reads().items()}
    assert found == {
        "corpus": "data/picto/corpus",
        "index_1": "runs/picto/s1/seed3/index", "trained_1": "runs/picto/s1/seed3/model",
        "index_2": "runs/picto/s2/seed3/index", "trained_2": "runs/picto/s2/seed3/model",
    }  # fmt: skip
    given = Job(job.project, "choose-inference", job.names, {"index": config_dir})
    assert refused(given.reads).where == "--index", "which of the two would it be?"
    # The model that predicts is the one trained on all queries.
    assert job.folder("build-index").parts[-3:] == ("a", "seed3", "index")
    # Beside a model that continues from an earlier one, splits start anew.
    start = {"start": {"folder": "shop.model", "sha256": "0" * 64}}
    anew = {name: keys | {"start": None} for name, keys in SPLITS.items()}
    write(config_dir, {"runs": runs | {"a": runs["a"] | start} | anew})
    assert resolved(config_dir, "b").start is not None and resolved(config_dir, "s1").start is None


ALONE, BESIDE = {"b": chosen_on("c")}, {"b": chosen_on("s1", "c")} | SPLITS
IMAGES, START = {"a": {"modality": "text+image"}}, {"start": {"folder": "m", "sha256": "0" * 64}}


@pytest.mark.parametrize(
    ("runs", "where", "says"),
    [
        ({"b": {"inherit": "a"}, "c": {"inherit": "b"}}, "c.inherit", "one level"),
        ({"b": {"inherit": "alph"}, "alpha": None}, "b.inherit", "did you mean 'alpha'?"),
        ({"b": {"preset": "official-encodr"}}, "b.preset", "did you mean 'official-encoder'?"),
        ({"a b": None}, "", "name may hold"),
        ({"b": [1]}, "b", "not a mapping"),
        ({"b": AUGMENTED | {"training": {"epochs": 3}}}, "b.training", "cannot set 'training'"),
        ({"b": AUGMENTED | {"inherit": "a"}}, "b.inherit", "either reuses a model or inherits"),
        ({"b": AUGMENTED, "c": {"reuse": "b"}}, "c.reuse", "none of its own"),
        ({"b": {"reuse": "b"}}, "b.reuse", "none of its own"),
        ({"b": {"reuse": "alph"}, "alpha": None}, "b.reuse", "did you mean 'alpha'?"),
        ({"b": AUGMENTED, "c": {"inherit": "b"}}, "c.inherit", "cannot inherit from one that reuses"),
        ({"b": {"reuse": "no"}}, "b.reuse", "reads no model"),
        ({"b": {"reuse": "a", "inference": {"method": "popularity"}}}, "b.reuse", "reads no model"),
        ({"b": {"reuse": "a", "inference": {"methd": "knn"}}}, "b.inference.methd", "unknown key 'methd'"),
        ({"b": {"reuse": "u"}, "u": {"method": "NGAME", "inference": {"labels_as": "z"}}}, "u", "no prototypes"),
        ({"b": {"reuse": "a", "inference": {"image_weight": 0.5}}}, "b", "image_weight"),
        ({"b": {"reuse": "a", "inference": {"chosen_on": ["s"]}}}, "b", "is for inference.method 'chosen' only"),
        ({"b": chosen_on("s1", "s3")} | SPLITS, CHOSEN_ON, "did you mean"),
        ({"b": chosen_on("s1", "a")} | SPLITS, CHOSEN_ON, "held out no queries"),
        ({"b": chosen_on("s1", "c")} | SPLITS | {"c": {"reuse": "s2"}}, CHOSEN_ON, "held out no queries"),
        (BESIDE | {"c": {"inherit": "a"} | SPLITS["s1"]}, CHOSEN_ON, "held out the same queries"),
        (BESIDE | {"c": SPLITS["s2"] | {"encoder": {"layers": 2}}}, CHOSEN_ON, "with its own encoder"),
        (ALONE | IMAGES | {"c": SPLITS["s1"] | {"modality": "text"}}, CHOSEN_ON, "with its own images, modality"),
        (ALONE | {"c": SPLITS["s1"] | START}, CHOSEN_ON, "starts from an earlier model"),
        (ALONE | {"c": {"training": {"epochs": 2, "validation": 0.1}}}, CHOSEN_ON, "its own epochs, images, modality"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(config_dir, runs, where, says):
    popularity = {"method": "none", "training": {"epochs": 0}, "inference": {"method": "popularity"}}
    write(config_dir, {"runs": {"a": {"modality": "text"}, "no": popularity} | runs})
    error = refused(load_runs, config_dir)
    assert says in str(error) and (f"runs.{where}" if where else "family.yaml") in error.where


@pytest.mark.parametrize(
    ("family", "where", "says"),
    [
        ({"rnus": {}}, "rnus", "did you mean 'runs'?"),
        ({"dataset": None}, "dataset", "no dataset"),
        ({"dataset": []}, "dataset", "no dataset"),
        ({"dataset": ["picto", 1]}, "dataset", "no dataset"),
        ({"base": {"reuse": "a"}, "runs": {"a": None}}, "base.reuse", "not every run can reuse one model"),
        ({"base": {"preset": "official-encodr"}}, "base.preset", "did you mean 'official-encoder'?"),
        ({"runs": ["a"]}, "runs", "not a mapping"),
        ({"runs": {"b": None}}, "runs.b", "a run is defined twice"),
    ],
)
def test_a_family_that_makes_no_sense_is_refused(config_dir, family, where, says):
    write(config_dir, family, "later")
    error = refused(load_runs, config_dir)
    assert error.where.endswith(where) and says in str(error)


def test_an_untrained_baseline_does_not_start_from_an_earlier_model(config_dir):
    start = {"folder": "shop.model", "sha256": "0" * 64}
    runs = {"knn": {"preset": "untrained", "inference": {"method": "knn"}}, "trained": None}
    write(config_dir, {"base": {"start": start}, "runs": runs}, "continued")
    assert resolved(config_dir, "trained").start.folder == "shop.model"
    assert resolved(config_dir, "knn").start is None, "a baseline with the published weights"


def test_an_unknown_run_names_the_nearest(config_dir):
    write(config_dir, {"runs": {"text-minilm-l3": None}})
    assert "'text-minilm-l3'" in refused(resolved, config_dir, "text-minilm").hint


# -- the workflow ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over", "where", "near", "kind"),
    [
        ({"targets": [{"dataset": "pict", "runs": ["a"]}]}, "targets.0.dataset", "'picto'", "dataset"),
        ({"targets": [{"dataset": "picto", "runs": ["aa"]}]}, "targets.0.runs", "'a'", "run"),
        ({"tables": ["tabel1"]}, "tables", "'table1'", "table"),
        ({"figures": ["figure"]}, "figures", "'figure2'", "figure"),
        ({"side_by_side": ["aa"]}, "side_by_side", "'a'", "run"),
        (
            {"targets": [{"dataset": "picto", "runs": ["model"]}]},
            "model.encoder.model",
            "'minilm-l3'",
            "language model",
        ),
        (
            {"targets": [{"dataset": "picto", "runs": ["vision"]}]},
            "vision.images.vision",
            "'efficientnet-lite0'",
            "vision model",
        ),
    ],
)
def test_names_in_a_workflow_must_exist(config_dir, over, where, near, kind):
    wrong = {"model": {"encoder": {"model": "minilm-13"}}, "vision": {"images": {"vision": "efficientnet-lite"}}}
    write(config_dir, {"runs": wrong}, "wrong")
    data = {"config_dir": str(config_dir), "targets": [{"dataset": "picto", "runs": ["a"]}]}
    workflow = load_workflow(data)
    assert workflow.targets[0].seeds == [0] and workflow.compare == ["text-minilm-l3", "vixml-minilm-l3"]
    assert load_workflow(data | {"compare": ["a", "b"]}).compare == ["a", "b"]
    error = refused(load_workflow, data | over)
    assert error.where.endswith(where) and near in error.hint and error.what.startswith(f"unknown {kind} '")


def test_latencies_are_of_runs_under_targets_of_the_first_dataset(config_dir):
    write(config_dir, {"dataset": "shop", "runs": {"a": None}}, "other")
    data = yaml.safe_load((config_dir / "datasets.yaml").read_text(encoding="utf-8"))
    data["datasets"]["shop"] = {"title": "Shop", "builder": "catalogue", "catalogue": {"folder": "shop"}}
    (config_dir / "datasets.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    first, second = {"dataset": "picto", "runs": ["b"]}, {"dataset": "shop", "runs": ["a"]}
    workflow = {"config_dir": str(config_dir), "targets": [first, second], "latencies": ["b"]}
    assert load_workflow(workflow).latencies == ["b"]
    error = refused(load_workflow, workflow | {"latencies": ["b", "a"]})
    assert error.where.endswith("latencies.1") and error.found == "a" and "not" in error.what


# -- the registry ---------------------------------------------------------------------------------------------------------


def test_a_reference_to_a_source_must_resolve(config_dir):
    data = yaml.safe_load((config_dir / "datasets.yaml").read_text(encoding="utf-8"))
    data["datasets"]["picto"]["sources"].append("icon-mpc")
    (config_dir / "datasets.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    assert "'icon-mcp'" in refused(load_world, config_dir).hint


def test_a_registry_may_include_another(own, config_dir):
    world, theirs = load_world(own), load_world(config_dir)
    assert set(world.datasets) == {"mine"}
    assert world.text_models == theirs.text_models and world.vision_models == theirs.vision_models
    files = [own / "datasets.yaml", own / "models.yaml", config_dir / "models.yaml"]
    assert [path.resolve() for path in registry_files(own)] == files
    more = yaml.safe_dump({"text_models": {"mine": theirs.text_models["minilm-l6"].model_dump()}})
    (own / "models.yaml").write_text("include: ../config/models.yaml\n" + more, encoding="utf-8")
    assert set(load_world(own).text_models) == {*theirs.text_models, "mine"}


INCLUDE = "include: ../config/models.yaml\n"


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("include: ../config/model.yaml\n", "own/models.yaml: include", "not there"),
        ("include: [a, b]\n", "own/models.yaml: include", "one other"),
        ("include: ../config/twice.yaml\n", "twice.yaml: include", "one level deep"),
        (
            f"{INCLUDE}text_models: {{minilm-l3: {{title: Another}}}}\n",
            "text_models.minilm-l3",
            "two entries of one name",
        ),
        (f"{INCLUDE}text_models: [a]\n", "models.yaml: text_models", "not a mapping"),
    ],
)
def test_an_include_that_makes_no_sense_is_refused(own, config_dir, text, where, says):
    (config_dir / "twice.yaml").write_text("include: models.yaml\n", encoding="utf-8")
    (own / "models.yaml").write_text(text, encoding="utf-8")
    error = refused(load_world, own)
    assert where in error.where and says in error.what
