"""Published vectors become image embeddings: the same numbers, in the memory of one block; no pickle runs code."""

from __future__ import annotations

import io
import os
import pickle
import shlex
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from helpers import rows_of
from hypothesis import given
from hypothesis import strategies as st
from images_helpers import write_corpus

from vixml import cli
from vixml.config.registry import VisionModel
from vixml.data.corpus import SPLITS, Corpus
from vixml.errors import VixmlError
from vixml.images.embeddings import ImageEmbeddings
from vixml.images.import_vectors import Published, import_vectors, read_row_lists
from vixml.provenance import read_manifest

# -- published vectors ------------------------------------------------------------------------------------------------

DIM = 6
EYES = VisionModel(title="Eyes", checkpoint="none", kind="hub", image_size=32, dim=DIM, licence="none")
# Rows of each split's own matrix that its items have; -1 and None: none.
ROWS = {"train": [[2, 0], -1, [1], None], "test": [[0], [2, 1, 3]], "label": [-1, [0], [1, 2]]}


def address_corpus(folder: Path, rows=ROWS, *, images: bool = True) -> Path:
    """Write a corpus whose items have an address for each row, and one more."""
    addresses, total = {split: [] for split in rows}, 0
    for split, lists in rows.items():
        for item in lists:
            many = len(item) + 1 if isinstance(item, list) and item and images else 0
            addresses[split].append(list(range(total, total + many)))
            total += many
    return write_corpus(folder, addresses, [""] * total)


def write_map(path: Path, rows) -> None:
    """Write a map as its publisher does: NumPy pickles the objects."""
    np.save(path, objects(rows), allow_pickle=True)


@pytest.fixture
def place(tmp_path):
    """A corpus, published files of seeded numbers, and the matrices."""
    rng = np.random.default_rng(0)
    matrices, files = {}, {}
    for split, rows in ROWS.items():
        n = 1 + max(row for item in rows if isinstance(item, list) for row in item)
        matrices[split] = rng.standard_normal((n, DIM)).astype(np.float32)
        files[split] = Published(tmp_path / f"{split}.npy", tmp_path / f"{split}_map.npy")
        np.save(files[split].vectors, matrices[split])
        write_map(files[split].rows, rows)
    corpus = address_corpus(tmp_path / "corpus")
    return SimpleNamespace(corpus=corpus, files=files, matrices=matrices, out=tmp_path / "embeddings")


def go(place) -> ImageEmbeddings:
    import_vectors(place.corpus, place.files, "eyes", EYES, place.out)
    return ImageEmbeddings.open(place.out)


def refused(place) -> VixmlError:
    with pytest.raises(VixmlError) as error:
        go(place)
    assert not place.out.exists(), "half image embeddings was published"
    assert error.value.hint
    return error.value


def test_each_item_gets_its_vectors_in_order(place):
    embeddings, corpus = go(place), Corpus.load(place.corpus)
    assert len(embeddings) == sum(map(len, place.matrices.values())) and embeddings.dim == DIM
    for split, rows in ROWS.items():
        lists = embeddings.lists(embeddings.images_of(corpus, split), per_item=3)
        for item, own in enumerate(rows):
            own = own if isinstance(own, list) else []
            expected = place.matrices[split][own].astype(np.float16)
            assert np.array_equal(embeddings.gather(lists.row(item), np.float16), expected)
    manifest = read_manifest(place.out)
    assert manifest["config"] == {"vision": "eyes", "model": EYES.settings("import-vectors")}
    facts = manifest["facts"]
    assert facts["pct_with_images"] == {"train": 50.0, "test": 100.0, "label": 66.67}
    assert facts["train"]["items_without"] == 2 and facts["n_missing"] == 0


def test_controls_and_cuts_work_on_item_lists(place):
    embeddings, corpus = go(place), Corpus.load(place.corpus)
    lists = embeddings.images_of(corpus, "test")
    assert embeddings.lists(lists, per_item=1).lengths.tolist() == [1, 1]
    assert embeddings.lists(lists, per_item=3, control="shuffled").lengths.tolist() == [3, 1]


def test_lists_of_another_corpus_are_refused(place, tmp_path):
    embeddings = go(place)
    other = Corpus.load(address_corpus(tmp_path / "other", ROWS | {"test": [[0]]}))
    with pytest.raises(VixmlError, match="do not belong together") as error:
        embeddings.images_of(other, "test")
    assert error.value.found == "2 items" and "import-vectors" in error.value.hint
    assert embeddings.images_of(other, "train") is embeddings.item_lists["train"]


def test_a_row_of_zeros_counts_as_missing(place):
    matrix = np.vstack([place.matrices["label"], np.ones((2, DIM), np.float32)])
    matrix[1] = 0
    np.save(place.files["label"].vectors, matrix)
    write_map(place.files["label"].rows, [-1, [0, 0], [1, 2]])
    embeddings = go(place)
    first = sum(len(place.matrices[split]) for split in ("train", "test"))
    assert embeddings.missing.tolist() == [first + 1]
    facts = read_manifest(place.out)["facts"]
    assert facts["label"] | {"n_vectors": 5} == {
        "n_vectors": 5, "items_without": 1, "rows_repeated": 1, "rows_unnamed": 2, "items_with_vectors_but_no_address": 0,
        "vectors_of_zeros": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("rows", "says"), [([1], "below 3e-8"), ([0, 1, 2], "all of its 3 rows")])
def test_vectors_that_are_zero_in_float16_are_refused(place, rows, says):
    matrix = place.matrices["label"].copy()
    matrix[rows] = 1e-9 if len(rows) == 1 else 0
    np.save(place.files["label"].vectors, matrix)
    error = refused(place)
    assert says in error.found and str(error.where).endswith(f"row {rows[0]}")


def test_more_images_than_the_maps_have_are_refused_before_the_matrices_are_read(place):
    with pytest.raises(VixmlError, match="exceeds the images available") as error:
        import_vectors(place.corpus, place.files, "eyes", EYES, place.out, per_item=4)
    assert "at most 3" in error.value.expected and not place.out.exists()
    import_vectors(place.corpus, place.files, "eyes", EYES, place.out, per_item=3)


def test_vectors_are_imported_for_a_corpus_without_images(place, tmp_path):
    place.corpus = address_corpus(tmp_path / "bare", images=False)
    assert len(go(place)) == sum(map(len, place.matrices.values()))


@pytest.mark.parametrize(
    ("bad", "said"),
    [(np.nan, "2 numbers NaN"), (-np.inf, "2 numbers infinity"), (65520.0, "2 numbers beyond float16 (65504)")],
)
def test_numbers_that_float16_cannot_hold_are_counted_and_located(place, bad, said):
    matrix = place.matrices["test"]
    matrix[0, :] = 65504  # the largest that it can hold
    matrix[1, 2] = matrix[3, 0] = bad
    np.save(place.files["test"].vectors, matrix)
    error = refused(place)
    assert error.found == said and str(error.where).endswith("test.npy, row 1")


# -- files that do not belong here ------------------------------------------------------------------------------------


def test_a_map_that_points_beyond_its_matrix_is_refused(place):
    write_map(place.files["test"].rows, [[0], [2, 4, 99]])
    error = refused(place)
    assert "points beyond" in error.what and error.found == "row 4, and 1 more such rows"
    assert str(error.where).endswith("test_map.npy, item 1") and "0 to 3" in error.expected


def test_a_negative_row_is_refused(place):
    write_map(place.files["test"].rows, [[-1], [0]])
    assert refused(place).found == "row -1"


def test_a_map_with_the_wrong_number_of_items_is_refused(place):
    write_map(place.files["train"].rows, [*ROWS["train"], [0]])
    error = refused(place)
    assert "does not fit the corpus" in error.what and "(5,)" in error.found and "(4,)" in error.expected


def test_vectors_of_the_wrong_length_are_refused(place):
    np.save(place.files["label"].vectors, np.ones((3, DIM + 1), np.float32))
    error = refused(place)
    assert error.found == "7 numbers per vector" and "eyes" in error.what


@pytest.mark.parametrize(
    "matrix",
    [np.ones((3, DIM)), np.ones(3, np.float32), np.asfortranarray(np.ones((3, DIM), np.float32))],
    ids=["float64", "one dimension", "columns first"],
)
def test_a_matrix_of_the_wrong_kind_is_refused(place, matrix):
    np.save(place.files["label"].vectors, matrix)
    assert refused(place).what == "not a matrix of the expected kind"


def test_a_truncated_or_too_long_matrix_is_refused(place):
    path = place.files["label"].vectors
    whole = path.read_bytes()
    for data, what in (
        (whole[:-4], "a matrix is truncated"), (whole + b"more", "longer than its header"), (whole[:40], "not a .npy file"),
        (whole.replace(b", }", b", }(", 1), "not a .npy file"),  # an error of Python's tokenizer
    ):  # fmt: skip
        path.write_bytes(data)
        error = refused(place)
        assert what in error.what and (len(data) != len(whole) - 4 or error.found == f"{len(data)} bytes")
    path.unlink()
    assert refused(place).what == "an array is missing"


def test_items_in_a_different_order_than_the_corpus_are_refused(tmp_path):
    rng = np.random.default_rng(1)
    rows = {split: [[i] if rng.random() < 0.8 else -1 for i in range(300)] for split in SPLITS}
    files = {split: Published(tmp_path / f"{split}.npy", tmp_path / f"{split}_map.npy") for split in SPLITS}
    for split in SPLITS:
        np.save(files[split].vectors, np.ones((300, DIM), np.float32))
        write_map(files[split].rows, rows[split])
    place = SimpleNamespace(corpus=address_corpus(tmp_path / "corpus", rows), files=files, out=tmp_path / "embeddings")
    # A few items more than the corpus knows are counted; a whole other order is refused.
    write_map(files["test"].rows, [[0] if i < 3 else item for i, item in enumerate(rows["test"])])
    go(place)
    known = sum(item == -1 for item in rows["test"][:3])
    assert read_manifest(place.out)["facts"]["test"]["items_with_vectors_but_no_address"] == known
    write_map(files["test"].rows, [rows["test"][i] for i in rng.permutation(300)])
    place.out = tmp_path / "other"
    assert "not in the order of the corpus" in refused(place).what


# -- memory, and the command ------------------------------------------------------------------------------------------

MEASURE = """
import sys
from pathlib import Path
from vixml.config.registry import VisionModel
from vixml.images.import_vectors import Published, import_vectors

def peak():
    # Of this process alone: ru_maxrss starts with that of the process it was forked from.
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

place = Path(sys.argv[1])
files = {s: Published(place / f"{s}.npy", place / f"{s}_map.npy") for s in ("train", "test", "label")}
eyes = VisionModel(title="Eyes", checkpoint="none", kind="hub", image_size=32, dim=1152, licence="none")
before = peak()
import_vectors(place / "corpus", files, "eyes", eyes, place / "embeddings")
print(before, peak())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of a process from /proc")
def test_memory_does_not_grow_with_the_matrix(tmp_path):
    n, grown = {"train": 50_000, "test": 4_000, "label": 4_000}, {}
    for share in (8, 1):
        place = tmp_path / str(share)
        rows = {split: [[2 * i, 2 * i + 1] for i in range(many // share // 2)] for split, many in n.items()}
        address_corpus(place / "corpus", rows)
        size = 0
        for split, items in rows.items():
            matrix = np.lib.format.open_memmap(place / f"{split}.npy", "w+", np.float32, (2 * len(items), 1152))
            matrix[:] = 1.5
            size += matrix.nbytes
            matrix.flush()
            write_map(place / f"{split}_map.npy", items)
        command = [sys.executable, "-c", MEASURE, str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        before, after = map(int, done.stdout.split())
        grown[share] = (after - before) / 1024
    megabytes = size / 2**20
    assert megabytes > 250
    # A block of float32 and its float16, sums, and the lists of 25,000 items; a map in memory would show all 250 MB.
    assert grown[1] < 80 and grown[1] - grown[8] < 20, f"{grown} MiB for {megabytes:.0f} MiB"


def test_the_command_reads_the_registry(place, tmp_path, capsys):
    raw = tmp_path
    sources, published = {}, {}
    about = {"kind": "hub", "name": "some/where", "version": "-", "licence": "none", "used_for": "tests"}
    for split, files in place.files.items():
        for key, path in (("vectors", files.vectors), ("map", files.rows)):
            sources[f"{split}-{key}"] = about | {"hub_path": path.name, "filename": path.name}
        published[split] = {"vectors": f"{split}-vectors", "map": f"{split}-map"}
    dataset = {"title": "D", "builder": "picto", "published_vectors": {"eyes": published}}
    registry = {
        "datasets.yaml": {"sources": sources, "datasets": {"d": dataset}},
        "models.yaml": {"text_models": {}, "vision_models": {"eyes": EYES.model_dump(), "ears": EYES.model_dump()}},
    }
    for name, content in registry.items():
        (tmp_path / name).write_text(yaml.safe_dump(content), encoding="utf-8")
    common = ["--corpus", str(place.corpus), "--raw", str(raw), "--config-dir", str(tmp_path)]
    assert cli.main(["import-vectors", "d", "eyes", *common, "--out", str(place.out)]) == 0
    assert np.array_equal(ImageEmbeddings.open(place.out).vectors, go(SimpleNamespace(**vars(place))).vectors)
    assert cli.main(["import-vectors", "d", "ears", *common, "--out", str(place.out)]) == 2
    assert "no published vectors" in capsys.readouterr().err
    # Placed by hand or not, a file that is not there is one clear error.
    place.files["test"].rows.unlink()
    assert cli.main(["import-vectors", "d", "eyes", *common, "--out", str(tmp_path / "new")]) == 2
    assert "vixml download test-map" in capsys.readouterr().err


# -- pickled rows -----------------------------------------------------------------------------------------------------

LISTS = st.lists(st.one_of(st.just(-1), st.none(), st.lists(st.integers(0, 70_000), max_size=4)), max_size=12)


def objects(rows) -> np.ndarray:
    array = np.empty(len(rows), dtype=object)
    for i, item in enumerate(rows):
        array[i] = item
    return array


def write_pickle(path: Path, content: bytes, n: int = 1) -> Path:
    """Write a pickle behind the header of an array of n objects."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (n,)})
    path.write_bytes(header.getvalue() + content)
    return path


def refused_map(path: Path, n: int = 1) -> VixmlError:
    with pytest.raises(VixmlError) as error:
        read_row_lists(path, n, 10)
    assert str(path) in str(error.value.where) and error.value.hint
    return error.value


@pytest.mark.parametrize("protocol", [2, 3, 4])
@given(rows=LISTS)
def test_arrays_pickled_by_numpy_are_read_back(protocol, rows, tmp_path_factory):
    path = write_pickle(tmp_path_factory.getbasetemp() / "map.npy", pickle.dumps(objects(rows), protocol), len(rows))
    found, counts = read_row_lists(path, len(rows), 70_001)
    expected = [list(dict.fromkeys(item)) if isinstance(item, list) else [] for item in rows]
    assert rows_of(found) == expected
    assert counts["items_without"] == sum(not item for item in expected)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["i1", "<i4", "<i8", ">i8", "u2", object])
def test_rows_may_be_numpy_arrays_or_scalars(tmp_path, protocol, kind):
    rows = [np.array([3, 1], dtype=kind), [np.int64(2), np.uint8(7)], np.zeros(0, dtype=kind), -1]
    path = write_pickle(tmp_path / "map.npy", pickle.dumps(objects(rows), protocol), 4)
    found, _ = read_row_lists(path, 4, 10)
    assert rows_of(found) == [[3, 1], [2, 7], [], []]


def test_module_names_of_older_and_newer_numpy_are_accepted(tmp_path):
    content = pickle.dumps(objects([[1]]), 3)
    assert b"numpy._core.multiarray" in content
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert read_row_lists(write_pickle(tmp_path / "map.npy", old), 1, 2)[0].row(0).tolist() == [1]


# -- malice -----------------------------------------------------------------------------------------------------------


class Evil:
    """Pickles as a call of whatever it is given."""

    def __init__(self, call, *arguments):
        self.how = call, arguments

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("inside", [True, False], ids=["in the array", "in its place"])
def test_calls_of_other_functions_do_not_run(tmp_path, protocol, inside):
    mark = tmp_path / "it-ran"
    for evil in (
        Evil(os.system, f"touch {shlex.quote(str(mark))}"),
        Evil(eval, f"open({str(mark)!r}, 'w')"),
        Evil(open, str(mark), "w"),
        Evil(np.save, str(mark), 1),
        Evil(np.fromfile, "/etc/hostname"),
    ):
        content = pickle.dumps(objects([[1, evil]]) if inside else evil, protocol)
        error = refused_map(write_pickle(tmp_path / "map.npy", content))
        assert error.what == "a pickle that is not read"
        assert "the name" in error.found or "the instruction" in error.found
    assert not mark.exists() and not mark.with_suffix(".npy").exists()
    # The same bytes do run where they are trusted: the test would see it.
    pickle.loads(pickle.dumps(Evil(os.system, f"touch {shlex.quote(str(mark))}"), protocol))
    assert mark.exists()


def op(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


NEW = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"


@pytest.mark.parametrize(
    "content",
    [
        op(name("numpy.core.multiarray", "fromfile")),
        op(name("numpy", "ndarray.tofile")),
        op(name("numpy.core.multiarray", "_reconstruct.__globals__")),
        op(name("builtins", "getattr")),
        op(name("numpy.core.multiarray", "scalar"), b"}b"),  # a state for a function
        op(b"\x80\x02]", name("numpy", "dtype"), b"\x8c\x02O8\x85R}b"),
        op(b"]]a\x81"),  # NEWOBJ
        op(b"\x82\x01"),  # EXT1
        op(b"Vid\nP"),
        op(b"(i__main__\nx\n"),
        op(b"\x97"),  # NEXT_BUFFER
        op(b"}"),
        op(b"G@\x00\x00\x00\x00\x00\x00\x00"),
        op(b"]r\xff\xff\xff\xff"),  # a memo of 64 GB
        op(b"]p999999999999\n"),
        op(b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f]"),
        op(b"B\xff\xff\xff\x7fabc"),
        op(b"\x8e\xff\xff\xff\xff\xff\xff\x00\x00abc"),
        op(NEW),  # an array that was never filled
        op(NEW, b"(K\x01K\x01\x85", name("numpy", "dtype"), b"\x8c\x02O8\x85R\x89C\x08ABCDEFGHtb"),  # bytes for objects
        op(NEW, b"(K\x01K\x01\x85", name("numpy", "dtype"), b"\x8c\x02O8\x85R\x89]tb"),  # fewer objects than said
        op(NEW, b"(K\x01J\xff\xff\xff\x7f\x85", name("numpy", "dtype"), b"\x8c\x02O8\x85R\x89]tb"),
        op(name("numpy", "dtype"), b"\x8c\x02V8\x85R"),
        op(name("_codecs", "encode"), b"\x8c\x01a\x8c\x03rot\x86R"),
        b"\x80\x04]",
        b"\x80\x04].]",
        b"",
        b"\xff\xff",
        b"\x80\x04R.",
        b"\x80\x04h\x05.",
    ],
)  # fmt: skip
def test_other_instructions_and_states_are_refused_map(tmp_path, content):
    assert refused_map(write_pickle(tmp_path / "map.npy", content)).what == "a pickle that is not read"


def array_of(item: bytes) -> bytes:
    """Return the pickle of an array of one object."""
    return op(NEW, b"(K\x01K\x01\x85", name("numpy", "dtype"), b"\x8c\x02O8\x85R\x89]", item, b"atb")


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (b"]" * 20_000 + b"a" * 19_999, "a list of list"),
        (b"]\x88a", "a list of bool"),
        (b"\x88", "True"),
        (b"K\x05", "5"),
        (b"\x8c\x01a", "str"),
        (b"]2aa", None),  # a list that holds itself: DUP is not among the instructions
        (b"]\x94h\x00a", "a list of list"),
        (b"]\x8a\x09" + b"\xff" * 8 + b"\x7fa", None),
        (
            name("numpy.core.multiarray", "scalar") + name("numpy", "dtype") + b"\x8c\x02i1\x85R"
            + name("_codecs", "encode") + b"\x8c\x03\xe2\x82\xac\x8c\x06latin1\x86R\x86R", "latin-1",
        ),
    ],
    ids=["deep", "true in a list", "true", "a bare number", "text", "dup", "itself", "huge", "text beyond bytes"],
)  # fmt: skip
def test_an_item_must_be_a_list_of_rows(tmp_path, item, said):
    error = refused_map(write_pickle(tmp_path / "map.npy", array_of(item)))
    assert said is None or said in error.found


def test_a_map_too_large_for_its_items_is_refused_map(tmp_path):
    path = write_pickle(tmp_path / "map.npy", b"\x80\x04" + b"]" * 200_000 + b".")
    assert "at most" in refused_map(path).expected


def test_one_list_for_every_item_does_not_fill_memory(tmp_path):
    n, one = 200_000, list(range(100_000))  # 20 billion rows, of a file of a megabyte
    write_map(tmp_path / "map.npy", [one] * n)
    assert "rows in" in refused_map(tmp_path / "map.npy", n).found


def test_reading_many_lists_is_fast(tmp_path):
    """Ten thousand lists in a fraction of a second; a quadratic step would show."""
    rows = [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(10_000)]
    path = write_pickle(tmp_path / "map.npy", pickle.dumps(objects(rows), 3), 10_000)
    found, counts = read_row_lists(path, 10_000, 30_001)
    assert found.values.tolist() == list(range(30_000)) and counts["rows_unnamed"] == 1


def test_an_array_of_numbers_is_refused_map(tmp_path):
    np.save(tmp_path / "map.npy", np.arange(3))
    assert "not a map" in refused_map(tmp_path / "map.npy", 3).what
    (tmp_path / "map.npy").write_bytes(struct.pack("<8s", b"\x93NUMPY\x03\x00") + b"\x00" * 20)
    assert refused_map(tmp_path / "map.npy", 3).what == "not a .npy file"
