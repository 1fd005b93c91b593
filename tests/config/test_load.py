"""Configuration is read strictly: what is misspelt is named, with the nearest spelling."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from vixml.config.load import load_runs, load_workflow, load_world, merge, read_yaml, registry_files, validate
from vixml.config.project import Project
from vixml.config.run import RunConfig
from vixml.config.workflow import WorkflowConfig
from vixml.errors import VixmlError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config_dir(tmp_path):
    """A copy of the repository's configuration with one small family of runs."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    for path in (tmp_path / "config" / "runs").iterdir():
        path.unlink()
    write(tmp_path / "config", {"base": {"encoder": {"max_len": 16}}, "runs": {"a": {"modality": "text"}, "b": None}})
    return tmp_path / "config"


def write(config_dir: Path, family: dict, name: str = "family") -> None:
    (config_dir / "runs" / f"{name}.yaml").write_text(yaml.safe_dump({"dataset": "picto"} | family), encoding="utf-8")


def get_run(config_dir: Path, run: str) -> RunConfig:
    return Project(config_dir).run("picto", run)


def refused(function, *arguments) -> VixmlError:
    with pytest.raises(VixmlError) as caught:
        function(*arguments)
    return caught.value


def test_every_file_of_the_repository_is_valid():
    world, runs = load_world(ROOT / "config"), load_runs(ROOT / "config")
    for (dataset, _), run in runs.items():
        assert dataset in world.datasets
        assert run.encoder.model in world.text_models and run.images.vision in world.vision_models


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a:\n  b: 1\n  b: 2\n"])
def test_a_key_given_twice_is_refused(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    error = refused(read_yaml, tmp_path / "a.yaml")
    assert "given twice" in error.found and str(error.where).endswith(f":{text.count(chr(10))}")


def test_malformed_files_are_named(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [1\nb: 2\n", encoding="utf-8")
    assert "a.yaml:" in refused(read_yaml, tmp_path / "a.yaml").where
    (tmp_path / "b.yaml").write_text("- 1\n", encoding="utf-8")
    assert "not a mapping" in refused(read_yaml, tmp_path / "b.yaml").what
    assert "missing" in refused(read_yaml, tmp_path / "c.yaml").what


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("2.5e4", 25000.0), ("-1E+2", -100.0), ("1e3", 1000.0)])
def test_numbers_with_exponents_are_numbers(tmp_path, text, value):
    (tmp_path / "a.yaml").write_text(f"a: {text}\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"a": value}


@pytest.mark.parametrize(
    ("data", "key", "near"),
    [
        ({"encodr": {}}, "encodr", "encoder"),
        ({"encoder": {"maxlen": 3}}, "encoder.maxlen", "max_len"),
        ({"mining": {"starts": 1}}, "mining.starts", "start"),
        ({"training": {"epoch": 1, "batch_size": "many"}}, "training.epoch", "epochs"),
    ],
)
def test_an_unknown_key_names_the_nearest(data, key, near):
    error = refused(validate, RunConfig, data, "here")
    assert error.what.startswith("unknown key") and error.where == f"here: {key}" and repr(near) in error.hint


def test_an_unknown_key_goes_before_a_missing_one():
    error = refused(validate, WorkflowConfig, {"target": []}, "here")
    assert error.what == "unknown key 'target'" and "'targets'" in error.hint


def test_unknown_keys_are_named_inside_lists_and_mappings():
    error = refused(validate, WorkflowConfig, {"targets": [{"dataset": "picto", "run": []}]}, "here")
    assert error.where == "here: targets.0.run" and "'runs'" in error.hint


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"training": {"epochs": -1}}, "training.epochs"),
        ({"modality": "images"}, "modality"),
        ({"loss": {"margin_min": 0.5, "margin_max": 0.1}}, "loss"),
        ({"method": "none"}, "nothing to train"),
        ({"inference": {"image_weight": 0.5}}, "image_weight"),
    ],
)
def test_values_that_make_no_sense_are_refused(data, says):
    error = refused(validate, RunConfig, data, "here")
    assert says in f"{error.what} {error.where}"


def test_merge_replaces_all_but_mappings():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1, "c": {"z": 1}}
    assert merge(base, {"a": {"y": [3]}, "c": None}) == {"a": {"x": 1, "y": [3]}, "b": 1, "c": None}
    assert base["a"]["y"] == [1, 2], "the base is left as it was"


def test_a_run_is_base_then_parent_then_its_own_keys(config_dir):
    write(
        config_dir,
        {
            "base": {"training": {"epochs": 5, "batch_size": 10}},
            "runs": {
                "p": {"training": {"epochs": 6}, "images": {"per_item": 2}},
                "c": {"inherit": "p", "training": {"epochs": 7}},
            },
        },
    )
    run = get_run(config_dir, "c")
    assert (run.training.epochs, run.training.batch_size, run.images.per_item) == (7, 10, 2)


def test_inheritance_is_one_level_deep_and_must_resolve(config_dir):
    write(config_dir, {"runs": {"a": None, "b": {"inherit": "a"}, "c": {"inherit": "b"}}})
    assert "one level" in refused(load_runs, config_dir).what
    write(config_dir, {"runs": {"alpha": None, "b": {"inherit": "alpa"}}})
    assert "'alpha'" in refused(load_runs, config_dir).hint


AUGMENTED = {"reuse": "a", "inference": {"method": "retrieval-augmented", "top_k": 50}, "row": {"label": "A+"}}


def test_a_preset_lies_beneath_the_keys_of_the_place_that_names_it(config_dir):
    presets = config_dir / "presets"
    (presets / "form.yaml").write_text("loss: {ties: half, negatives: 7}\ntraining: {epochs: 5}\n")
    (presets / "recipe.yaml").write_text("preset: form\nloss: {negatives: 8}\nencoder: {max_len: 9}\n")
    base = {"preset": "recipe", "training": {"batch_size": 4}}
    runs = {
        "a": {"loss": {"negatives": 3}},
        "b": {"inherit": "a", "preset": "form"},
        "c": {"preset": "form", "loss": {"negatives": 1}},
        "d": {"reuse": "c", "inference": {"top_k": 7}},
    }
    write(config_dir, {"base": base, "runs": runs})
    found = {run: config for (_, run), config in load_runs(config_dir).items()}
    assert [found[run].loss.negatives for run in "abcd"] == [3, 7, 1, 1]
    for config in found.values():
        assert config.loss.ties == "half" and config.training.epochs == 5 and config.training.batch_size == 4
        assert config.encoder.max_len == 9
    assert not hasattr(found["a"], "preset"), "what a run was resolved to says each key, and no name for them"


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("preset: official\n", "presets/mine.yaml", None),
        ("preset: mine\n", "presets/mine.yaml: preset", "names none"),
        ("preset: official-encoder\n", "presets/official-encoder.yaml: preset", "names none"),
        ("preset: offical\n", "presets/mine.yaml.preset", "unknown key 'offical'"),
        ("preset: ../runs/family\n", "presets/mine.yaml.preset", "unknown key"),
        ("preset: [1]\n", "presets/mine.yaml.preset", "unknown key"),
        ("loss: {tie: half}\n", "presets/mine.yaml: loss.tie", "unknown key 'tie'"),
        ("inherit: a\n", "presets/mine.yaml: inherit", "unknown key"),
    ],
)
def test_presets_are_checked_where_they_stand(config_dir, text, where, says):
    (config_dir / "presets" / "mine.yaml").write_text(text)
    write(config_dir, {"runs": {"a": {"preset": "mine"}}})
    if says is None:
        load_runs(config_dir)
        return
    error = refused(load_runs, config_dir)
    assert str(error.where).endswith(where) and says in error.what, str(error)


def test_presets_of_an_included_registry_can_be_named(own, config_dir):
    """A configuration of one's own beside the project's has the project's presets, and may replace one by its own."""
    write(own, {"base": {"preset": "official"}, "runs": {"a": None}})
    assert get_run(own, "a").loss.ties == "half"
    (own / "presets").mkdir()
    (own / "presets" / "official.yaml").write_text("training: {epochs: 3}\n")
    assert (get_run(own, "a").loss.ties, get_run(own, "a").training.epochs) == ("none", 3)


def test_a_misspelt_preset_of_a_family_names_the_nearest(config_dir):
    write(config_dir, {"base": {"preset": "official-encodr"}, "runs": {"a": None}})
    error = refused(load_runs, config_dir)
    assert str(error.where).endswith("family.yaml: base.preset") and "official-encoder" in error.hint


def test_a_run_may_reuse_a_trained_model_with_inference_and_row_of_its_own(config_dir):
    own = {
        "inference": {"labels_as": "u", "top_k": 20},
        "row": {"label": "A", "note": "Small."},
        "encoder": {"layers": 2},
    }
    runs = {"p": {"training": {"epochs": 3}}, "a": {"inherit": "p"} | own, "b": AUGMENTED}
    write(config_dir, {"base": {"encoder": {"max_len": 16}}, "runs": runs})
    a, b = get_run(config_dir, "a"), get_run(config_dir, "b")
    # Settings are those of the reused run, its inference included, where the reusing run says nothing else.
    assert (b.reuse, b.encoder.max_len, b.encoder.layers, b.training.epochs) == ("a", 16, 2, 3)
    assert (b.inference.method, b.inference.labels_as, b.inference.top_k) == ("retrieval-augmented", "u", 50)
    assert (b.row.label, b.row.note) == ("A+", "")
    left_out = {"reuse", "inference", "row"}
    assert a.reuse is None and a.model_dump(exclude=left_out) == b.model_dump(exclude=left_out)
    assert a.inference.top_k == 20


@pytest.mark.parametrize(
    ("runs", "where", "says"),
    [
        ({"b": AUGMENTED | {"training": {"epochs": 3}}}, "b.training", "cannot set 'training'"),
        ({"b": AUGMENTED | {"inherit": "a"}}, "b.inherit", "either reuses a model or inherits"),
        ({"b": AUGMENTED, "c": {"reuse": "b"}}, "c.reuse", "none of its own"),
        ({"b": {"reuse": "b"}}, "b.reuse", "none of its own"),
        ({"b": {"reuse": "alpha"}}, "b.reuse", "unknown key 'alpha'"),
        ({"b": AUGMENTED, "c": {"inherit": "b"}}, "c.inherit", "cannot inherit from one that reuses"),
        ({"b": {"reuse": "no"}}, "b.reuse", "popularity reads no model"),
        ({"b": {"reuse": "a", "inference": {"method": "popularity"}}}, "b.reuse", "popularity reads no model"),
        ({"b": {"reuse": "a", "inference": {"methd": "knn"}}}, "b: inference.methd", "unknown key 'methd'"),
        ({"b": {"reuse": "u"}, "u": {"method": "NGAME", "inference": {"labels_as": "z"}}}, "u", "no prototypes"),
        ({"b": {"reuse": "a", "inference": {"image_weight": 0.5}}}, "b", "image_weight"),
    ],
)
def test_a_reuse_that_makes_no_sense_is_refused(config_dir, runs, where, says):
    popularity = {"method": "none", "training": {"epochs": 0}, "inference": {"method": "popularity"}}
    write(config_dir, {"runs": {"a": {"modality": "text"}, "no": popularity} | runs})
    error = refused(load_runs, config_dir)
    assert says in error.what and f"runs.{where}" in str(error.where)


def test_a_reused_run_is_spelt_right_and_named_run_by_run(config_dir):
    write(config_dir, {"runs": {"vixml-minilm-l3": None, "b": {"reuse": "vixml-minilm-13"}}})
    assert "'vixml-minilm-l3'" in refused(load_runs, config_dir).hint
    write(config_dir, {"base": {"reuse": "a"}, "runs": {"a": None, "b": None}})
    assert "base.reuse" in refused(load_runs, config_dir).where
    write(config_dir, {"runs": {"a": {"reuse": None}}})
    assert get_run(config_dir, "a").reuse is None


def test_families_are_checked(config_dir):
    write(config_dir, {"rnus": {}})
    assert "'runs'" in refused(load_runs, config_dir).hint
    write(config_dir, {"runs": {"a b": None}})
    assert "name may hold" in refused(load_runs, config_dir).what
    write(config_dir, {"runs": {"a": None}})
    write(config_dir, {"runs": {"a": None}}, "other")
    assert "defined twice" in refused(load_runs, config_dir).what
    (config_dir / "runs" / "other.yaml").write_text("runs: {}\n", encoding="utf-8")
    assert "no dataset" in refused(load_runs, config_dir).what


def test_an_unknown_run_names_the_nearest(config_dir):
    write(config_dir, {"runs": {"text-minilm-l3": None}})
    assert "'text-minilm-l3'" in refused(get_run, config_dir, "text-minilm").hint


@pytest.mark.parametrize(
    ("over", "where", "near"),
    [
        ({"targets": [{"dataset": "pict", "runs": ["a"]}]}, "targets.0.dataset", "'picto'"),
        ({"targets": [{"dataset": "picto", "runs": ["aa"]}]}, "targets.0.runs", "'a'"),
        ({"tables": ["tabel1"]}, "tables", "'table1'"),
        ({"figures": ["figure"]}, "figures", "'figure2'"),
    ],
)
def test_names_in_a_workflow_must_exist(config_dir, over, where, near):
    data = {"config_dir": str(config_dir), "targets": [{"dataset": "picto", "runs": ["a"]}]}
    assert load_workflow(data).targets[0].seeds == [0]
    error = refused(load_workflow, data | over)
    assert str(error.where).endswith(where) and near in error.hint


@pytest.mark.parametrize(("key", "value"), [("model", "minilm-13"), ("vision", "efficientnet-lite")])
def test_models_of_a_run_must_exist(config_dir, key, value):
    write(config_dir, {"runs": {"a": {"encoder" if key == "model" else "images": {key: value}}}})
    data = {"config_dir": str(config_dir), "targets": [{"dataset": "picto", "runs": ["a"]}]}
    assert "did you mean" in refused(load_workflow, data).hint


def test_a_reference_to_a_source_must_resolve(config_dir):
    data = yaml.safe_load((config_dir / "datasets.yaml").read_text(encoding="utf-8"))
    data["datasets"]["picto"]["sources"].append("icon-mpc")
    (config_dir / "datasets.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    assert "'icon-mcp'" in refused(load_world, config_dir).hint


@pytest.fixture
def own(tmp_path, config_dir):
    """A configuration beside the project's, whose models it includes."""
    folder = tmp_path / "own"
    (folder / "runs").mkdir(parents=True)
    (folder / "models.yaml").write_text("include: ../config/models.yaml\n", encoding="utf-8")
    entry = {"title": "Mine", "builder": "catalogue", "catalogue": {"folder": "mine"}}
    (folder / "datasets.yaml").write_text(yaml.safe_dump({"datasets": {"mine": entry}}), encoding="utf-8")
    return folder


def test_a_registry_may_include_another(own, config_dir):
    world = load_world(own)
    assert set(world.datasets) == {"mine"}
    theirs = load_world(config_dir)
    assert world.text_models == theirs.text_models and world.vision_models == theirs.vision_models
    assert [path.resolve() for path in registry_files(own)] == [
        own / "datasets.yaml", own / "models.yaml", config_dir / "models.yaml",
    ]  # fmt: skip
    (own / "models.yaml").write_text(
        "include: ../config/models.yaml\n"
        + yaml.safe_dump({"text_models": {"mine": theirs.text_models["minilm-l6"].model_dump()}}),
        encoding="utf-8",
    )
    assert set(load_world(own).text_models) == {*theirs.text_models, "mine"}


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("include: ../config/model.yaml\n", "own/models.yaml: include", "not there"),
        ("include: [a, b]\n", "own/models.yaml: include", "one other"),
        ("include: ../config/twice.yaml\n", "twice.yaml: include", "one level deep"),
        (
            "include: ../config/models.yaml\ntext_models: {minilm-l3: {title: Another}}\n",
            "models.yaml: text_models.minilm-l3",
            "two entries of one name",
        ),
        ("include: ../config/models.yaml\ntext_models: [a]\n", "models.yaml: text_models", "not a mapping"),
    ],
)
def test_includes_that_cannot_be(own, config_dir, text, where, says):
    (config_dir / "twice.yaml").write_text("include: models.yaml\n", encoding="utf-8")
    (own / "models.yaml").write_text(text, encoding="utf-8")
    error = refused(load_world, own)
    assert where in str(error.where) and says in error.what


def test_runs_of_the_report_must_exist(config_dir):
    data = {"targets": [{"dataset": "picto", "runs": ["a"]}], "config_dir": str(config_dir)}
    assert load_workflow(data).compare == ["text-minilm-l3", "vixml-minilm-l3"]
    assert load_workflow(data | {"compare": ["a", "b"]}).compare == ["a", "b"]
    error = refused(load_workflow, data | {"side_by_side": ["aa"]})
    assert error.what == "unknown key 'aa'" and "side_by_side" in error.where
