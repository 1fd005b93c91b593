"""An exported dataset loads with Hugging Face `datasets`, offline, and equals the corpus, image by image."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from corpus_data import CorpusData, Items
from helpers import rows_of
from images_helpers import png
from PIL import Image

from vixml import cli
from vixml.config.registry import World
from vixml.data.corpus import SPLITS, Corpus
from vixml.errors import VixmlError
from vixml.files import read_json, save_array, write_json
from vixml.images import export
from vixml.images.embeddings import FORMAT, ImageEmbeddings
from vixml.images.export import export_dataset
from vixml.images.store import ImageStore, write_store
from vixml.provenance import read_manifest, stage
from vixml.ragged import Ragged
from vixml.stages import Job

# -- a dataset to export ----------------------------------------------------------------------------------------------

N_IMAGES, MISSING, DIM = 11, (0, 4, 10), 5
TEXTS = {
    "train": ["a plain one", "zwei | Striche", "line\nbreak", 'quotes "and" \\', "猫 and émoji 🐈", ""],
    "test": ["test a", "test b", "---\nname: no header"],
    "label": [f"label {i}" for i in range(7)],
}
SOURCE = {
    "kind": "place", "name": "Some images", "version": "3", "filename": "some.zip", "licence": "CC BY 4.0",
    "used_for": "all of it",
}  # fmt: skip
EYES = {"title": "Eyes", "checkpoint": "some/eyes", "kind": "hub", "image_size": 32, "dim": DIM, "licence": "MIT"}


def registry(**dataset) -> dict:
    """Return a registry of one dataset."""
    entry = {"title": "Tiny: a dataset", "builder": "picto", "sources": ["some"], "text": "a name", "stand_in": True}
    return {
        "sources": {"some": SOURCE},
        "datasets": {"tiny": entry | {"facts": {"pct_labels_with_images": 95.72}} | dataset},
        "text_models": {},
        "vision_models": {"eyes": EYES},
    }


def write_embeddings(folder: Path, vision: str, item_lists: dict[str, Ragged] | None = None, n: int = N_IMAGES) -> Path:
    """Export image embeddings of seeded vectors, with item lists or without."""
    rows = np.random.default_rng(n).standard_normal((n, DIM)).astype(np.float16)
    missing = list(MISSING) if item_lists is None else [1]
    rows[missing] = 0
    with stage(folder, "embed-images" if item_lists is None else "import-vectors", config={}, inputs={}) as work:
        save_array(work / "vectors.npy", rows)
        header = {"format": FORMAT, "n_images": n, "dim": DIM, "vision": vision, "missing": missing}
        for split, lists in (item_lists or {}).items():
            lists.save(work / f"{split}_images")
        write_json(work / "embeddings.json", header | {"precision": "fp32"} | ({"lists": "own"} if item_lists else {}))
    return folder


def write_place(root: Path) -> SimpleNamespace:
    """Write a corpus with odd texts, an image store of three shards with missing images, and image embeddings."""
    rng = np.random.default_rng(0)
    n = {split: len(texts) for split, texts in TEXTS.items()}
    keys = [f"image-{i}" for i in range(N_IMAGES)]
    images = {s: [rng.permutation(N_IMAGES)[: i % 4].tolist() for i in range(n[s])] for s in SPLITS}
    labels = {s: [sorted(rng.permutation(7)[: 1 + i % 3].tolist()) for i in range(n[s])] for s in ("train", "test")}
    data = CorpusData(
        items={split: Items([f"{split}-{i}" for i in range(n[split])], TEXTS[split]) for split in SPLITS},
        labels={split: Ragged.from_rows(rows, 7) for split, rows in labels.items()},
        image_keys=keys,
        image_sources=[f"some:{key}.svg" for key in keys],
        images={split: Ragged.from_rows(rows, N_IMAGES) for split, rows in images.items()},
        filters={"test": Ragged.from_rows([[1], [], [0, 2]], 7)},
    )
    with stage(root / "corpus", "build-corpus", config={}, inputs={}) as work:
        data.write(work)
    rows = [(i, key, None if i in MISSING else png(i)) for i, key in enumerate(keys)]
    with stage(root / "images", "render-images", config={}, inputs={}) as work:
        write_store(work, rows, N_IMAGES, 3)
    embeddings = write_embeddings(root / "embeddings", "eyes")
    return SimpleNamespace(
        root=root, corpus=root / "corpus", images=root / "images", embeddings=embeddings, out=root / "out",
        pngs=[data for _, _, data in rows],
    )  # fmt: skip


def go(place: SimpleNamespace, **given) -> Path:
    """Export the place, with what is given in other ways; return the folder."""
    options = {"world": World.model_validate(registry()), "images": place.images, "embeddings": [place.embeddings]}
    options |= given
    export_dataset(options["world"], "tiny", place.corpus, options["images"], options["embeddings"], place.out)
    return place.out


# -- the export -------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path):
    return write_place(tmp_path)


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Return `datasets.load_dataset`, with no network and a cache of this test."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()

    def load(folder: Path, *arguments, **options):
        return datasets.load_dataset(str(folder), *arguments, cache_dir=str(tmp_path / "cache"), **options)

    return load


def configurations(folder: Path) -> list[str]:
    from datasets import get_dataset_config_names

    return get_dataset_config_names(str(folder))


# -- the folder is loaded and compared --------------------------------------------------------------------------------


def test_every_text_and_label_is_loaded_back(place, load):
    folder, corpus = go(place), Corpus.load(place.corpus)
    assert configurations(folder) == ["queries", "labels", "images", "vectors-eyes"]
    queries = load(folder)  # the default
    assert set(queries) == {"train", "test"}
    for split in ("train", "test"):
        rows, labels, images = list(queries[split]), corpus.labels(split), corpus.images(split)
        assert [row["id"] for row in rows] == corpus.ids(split) and [row["text"] for row in rows] == TEXTS[split]
        assert [row["labels"] for row in rows] == rows_of(labels)
        assert [row["images"] for row in rows] == rows_of(images)
    assert queries["test"]["not_scored"][:] == [[1], [], [0, 2]] and queries["train"]["not_scored"][:] == [[]] * 6
    labels = load(folder, "labels", split="label")
    assert labels["text"][:] == TEXTS["label"] and labels["images"][:] == rows_of(corpus.images("label"))


def test_the_row_of_an_image_is_its_id(place, load):
    images = load(go(place), "images", split="image")
    assert len(images) == N_IMAGES and images["key"][:] == Corpus.load(place.corpus).image_keys()
    for i, row in enumerate(images):
        assert row["source"] == f"some:image-{i}.svg"
        if i in MISSING:
            assert row["image"] is None
        else:
            shown = Image.open(io.BytesIO(place.pngs[i])).convert("RGB")
            assert np.array_equal(np.asarray(row["image"].convert("RGB")), np.asarray(shown))


def test_the_row_of_a_vector_is_its_image_id(place, load):
    rows, embeddings = load(go(place), "vectors-eyes", split="vector"), ImageEmbeddings.open(place.embeddings)
    for i, vector in enumerate(rows["vector"]):
        assert vector is None if i in MISSING else np.array_equal(np.float16(vector), embeddings.vectors[i])


def test_embeddings_with_item_lists_name_their_rows(place, load):
    item_lists = {
        split: Ragged.from_rows([[i % 4] if i % 3 else [2, 0] for i in range(len(TEXTS[split]))], 4) for split in SPLITS
    }
    embeddings = write_embeddings(place.root / "own", "ears", item_lists, n=4)
    folder = go(place, embeddings=[place.embeddings, embeddings])
    assert configurations(folder)[-2:] == ["vectors-eyes", "vectors-ears"]
    assert load(folder, "labels", split="label")["rows_ears"][:] == rows_of(item_lists["label"])
    assert load(folder, split="test")["rows_ears"][:] == rows_of(item_lists["test"])
    vectors = load(folder, "vectors-ears", split="vector")["vector"][:]
    assert [vector is None for vector in vectors] == [False, True, False, False]


def test_a_corpus_without_store_is_exported_with_the_sources_of_its_images(place, load):
    folder = go(place, images=None, embeddings=[])
    assert configurations(folder) == ["queries", "labels", "images"]
    assert load(folder, "images", split="image").column_names == ["key", "source"]
    assert "## Coverage" not in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("batch", "per_file"), [(1, 2), (2, 3), (3, 2), (100, 100)])
def test_the_result_does_not_depend_on_file_and_batch_size(place, load, monkeypatch, batch, per_file):
    for names, value in ((("BATCH", "GROUP"), batch), (("ROWS_PER_FILE", "VECTORS_PER_FILE"), per_file)):
        for name in names:
            monkeypatch.setattr(export, name, value)
    folder = go(place)
    assert len(list(folder.glob("queries/train-*"))) == -(-6 // per_file)
    assert load(folder, split="train")["text"][:] == TEXTS["train"]
    images = load(folder, "images", split="image")
    assert [row["image"] is None for row in images] == [i in MISSING for i in range(N_IMAGES)]


# -- the card ---------------------------------------------------------------------------------------------------------


def test_the_card_states_sizes_coverage_origin_and_licences(place):
    folder = go(place)
    text = (folder / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["pretty_name"] == "Tiny: a dataset" and header["size_categories"] == ["n<1K"]
    info = {entry["config_name"]: entry for entry in header["dataset_info"]}
    assert [split["num_examples"] for split in info["queries"]["splits"]] == [6, 3]
    shards = sum(path.stat().st_size for path in folder.glob("images/*.parquet"))
    assert info["images"]["download_size"] == shards and info["images"]["dataset_size"] > 0
    for expected in (
        "6 training and 3 test queries, 7 labels, 11 images", "A stand-in", "CC BY 4.0: Some images", "Attribution",
        "3 of 11 images are missing", "95.72 %", "some/eyes", "`vixml build-corpus`", "## Checksums",
    ):  # fmt: skip
        assert expected in text, expected
    facts = read_manifest(folder)["facts"]
    assert facts["rows"] == {
        "queries/train": 6, "queries/test": 3, "labels/label": 7, "images/image": 11, "vectors-eyes/vector": 11,
    }  # fmt: skip
    corpus = Corpus.load(place.corpus)
    there = [any(i not in MISSING for i in corpus.images("label").row(row)) for row in range(7)]
    assert facts["pct_with_images"]["images"]["label"] == round(100 * sum(there) / 7, 2)
    assert f"{100 * sum(there) / 7:.2f} % | " in text


def test_the_example_on_the_card_runs(place, load, tmp_path):
    folder = go(place)
    example = (folder / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", example]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    corpus = Corpus.load(place.corpus)
    names = [TEXTS["label"][row] for row in corpus.labels("test").row(0)]
    assert done.stdout.strip() == f"test a {names}"


def test_checksums_match_the_files_and_the_export_is_deterministic(place):
    folder = go(place)
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    data = {p.relative_to(folder).as_posix() for p in folder.rglob("*.parquet")}
    assert set(sums) == data and len(data) == 7
    for name, expected in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    go(place)
    changed = [path.name for path, content in before.items() if path.read_bytes() != content]
    assert set(changed) <= {"manifest.json"}


def test_the_card_says_when_a_publisher_states_no_licence(place):
    entries = registry()
    entries["sources"]["some"] = SOURCE | {"licence": "not stated"}
    text = (go(place, world=World.model_validate(entries)) / "README.md").read_text(encoding="utf-8")
    assert "no permission to pass their texts or images on" in text and "not stated: Some images" in text


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("sources", {"some": SOURCE | {"licence": "CC0 1.0"}}),
        ("sources", {"some": SOURCE | {"used_for": "half of it"}}),
        ("sources", {"some": SOURCE | {"name": "Other images"}}),
        ("vision_models", {"eyes": EYES | {"licence": "GPL"}}),
        ("vision_models", {"eyes": EYES | {"checkpoint": "other/eyes"}}),
    ],
)
def test_what_the_card_prints_of_the_registry_is_a_setting_of_the_export(place, part, changed):
    before, after = (World.model_validate(registry() | more) for more in ({}, {part: changed}))
    text = (go(place) / "README.md").read_text(encoding="utf-8")
    assert (go(place, world=after) / "README.md").read_text(encoding="utf-8") != text
    settings = after.export_settings("tiny", ["eyes"])
    assert read_manifest(place.out)["config"] == {"id": "tiny", **settings}
    job = Job(SimpleNamespace(world=after), "export-dataset", {"dataset": "tiny", "vision": ["eyes"]})
    assert settings == job.obeys() != before.export_settings("tiny", ["eyes"])
    assert part == "sources" or after.export_settings("tiny", []) == before.export_settings("tiny", [])


def test_licences_of_imported_vectors_are_settings_of_the_export():
    files = {"vectors": "rows", "map": "rows"}
    entries = registry(published_vectors={"ears": {split: files for split in SPLITS}})
    entries["sources"]["rows"] = SOURCE | {"filename": "rows.npy", "licence": "theirs"}
    world = World.model_validate(entries)
    assert world.export_settings("tiny", ["ears"])["sources"]["rows"]["licence"] == "theirs"
    assert "rows" not in world.export_settings("tiny", ["eyes"])["sources"]


def test_titles_and_licences_are_text_on_the_card(place):
    hostile = "a <script>x</script>\n# b | ![c](d) \\[e](f)"
    entries = registry(title=hostile, text=hostile)
    entries["sources"]["some"] = SOURCE | {"licence": hostile, "used_for": hostile, "name": hostile}
    text = (go(place, world=World.model_validate(entries)) / "README.md").read_text(encoding="utf-8")
    header, body = text.split("---\n")[1], text.split("---\n", 2)[2]
    assert yaml.safe_load(header)["pretty_name"] == hostile
    assert "<script>" not in body and "![c](" not in body and "\\\\[e]" not in body.replace("\\\\\\[e]", "")
    assert [line for line in body.splitlines() if line.startswith("# ")] == [body.strip().splitlines()[0]]


# -- parts that do not belong together --------------------------------------------------------------------------------


def refused(place, **given) -> VixmlError:
    with pytest.raises(VixmlError) as error:
        go(place, **given)
    assert not place.out.exists() and error.value.hint
    return error.value


def test_a_store_of_another_corpus_is_refused(place):
    with stage(place.root / "short", "render-images", config={}, inputs={}) as work:
        write_store(work, [(0, "image-0", png(0))], 1, 1)
    assert refused(place, images=place.root / "short").found == "1 images"
    with stage(place.root / "other", "render-images", config={}, inputs={}) as work:
        write_store(work, [(i, f"other-{i}", png(i)) for i in range(N_IMAGES)], N_IMAGES, 3)
    error = refused(place, images=place.root / "other")
    assert error.found == "other-0" and error.expected == "image-0"


def test_embeddings_of_another_corpus_and_duplicates_are_refused(place):
    assert refused(place, embeddings=[write_embeddings(place.root / "more", "ears", n=12)]).found == "12 rows"
    assert refused(place, embeddings=[place.embeddings, write_embeddings(place.root / "again", "eyes")]).found == "eyes"


def test_a_truncated_shard_and_an_unfinished_folder_are_refused(place):
    assert len(ImageStore.open(place.images)) == N_IMAGES
    shard = place.images / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    assert "cannot be read" in refused(place).what
    (place.corpus / "manifest.json").unlink()
    assert "not complete" in refused(place, images=None, embeddings=[]).what


def test_a_table_with_too_few_rows_is_an_error(place):
    table = export.ExportedTable(
        "c", "s", "t/s", (export.ExportedColumn("id", export.STRING, ""),), iter(()), n_rows=3, per_file=2
    )
    with pytest.raises(VixmlError, match="ended too early"):
        table.write(place.root)


def test_the_command(place, capsys):
    for name, keys in (("datasets", ("sources", "datasets")), ("models", ("text_models", "vision_models"))):
        part = {key: registry()[key] for key in keys}
        (place.root / f"{name}.yaml").write_text(yaml.safe_dump(part), encoding="utf-8")
    common = ["--corpus", str(place.corpus), "--config-dir", str(place.root), "--out", str(place.out)]
    embeddings = place.root / "results/data/tiny/embeddings/net"
    embeddings.parent.mkdir(parents=True)
    embeddings.symlink_to(place.embeddings)
    options = ["--images", str(place.images), "--results", str(place.root / "results"), "--vision", "net"]
    assert cli.main(["export-dataset", "tiny", *common, *options]) == 0
    assert read_json(place.out / "manifest.json")["facts"]["rows"]["images/image"] == N_IMAGES
    assert cli.main(["export-dataset", "tony", *common]) == 2
    assert "did you mean 'tiny'?" in capsys.readouterr().err
