"""The card of an export: how to use it, what was verified, and what it lacks of the model."""

from __future__ import annotations

from vixml.tagging.card import without_items
from vixml.tagging.model_folder import ModelFolder
from vixml.text import plain

FRONT = {
    "sentence-transformers": "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n"
    "tags: [sentence-transformers, feature-extraction, vixml]\n---\n\n",
    "onnx": "---\nlibrary_name: onnx\npipeline_tag: feature-extraction\ntags: [onnx, vixml]\n---\n\n",
}
USE = {
    "sentence-transformers": """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this folder")
vectors = model.encode(["fishing rod"])  # unit vectors
# The language model alone: transformers.AutoModel.from_pretrained("this folder")
""",
    "onnx": """\
import numpy as np, onnxruntime, tokenizers

tokenizer = tokenizers.Tokenizer.from_file("this folder/tokenizer.json")
session = onnxruntime.InferenceSession("this folder/model.onnx")
rows = tokenizer.encode_batch(["fishing rod"])  # cut and padded
given = {"input_ids": [row.ids for row in rows], "attention_mask": [row.attention_mask for row in rows]}
vectors = session.run(None, {name: np.array(value) for name, value in given.items()})[0]  # unit vectors
""",
    "faiss": """\
import faiss, pandas

names = pandas.read_parquet("this folder/labels.parquet")
vectors = ...  # (n, dim) float32 of texts, from the sentence-transformers or the ONNX export of the same model
scores, rows = faiss.read_index("this folder/labels.faiss").search(vectors, 10)
print(names["name"][rows[0]].tolist())
""",
    "parquet": """\
import lancedb, pyarrow.parquet as pq

labels = lancedb.connect("a folder").create_table("labels", pq.read_table("this folder/labels.parquet"))
vector = ...  # of a text, from the sentence-transformers or the ONNX export of the same model
print(labels.search(vector).metric("cosine").limit(10).to_list())
""",
}
WHAT = {
    "sentence-transformers": "the text encoder for sentence-transformers",
    "onnx": "the text encoder as one ONNX graph",
    "faiss": "vectors in a faiss index",
    "parquet": "vectors as Parquet",
}


def losses(folder: ModelFolder, to: str) -> list[str]:
    """Return what an export lacks of the model, one sentence each; most important first."""
    run, encodes, catalogue = folder.run, to in ("sentence-transformers", "onnx"), folder.dataset.catalogue
    sentences = {
        f"this model reads up to {run.images.per_item} images per item and the export reads none: vectors are those of "
        "the text alone, and tags are worse than the scores say": run.uses_images and encodes,
        "this model reads images: the exports that encode texts read none, so queries from them lack the images":
        run.uses_images and not encodes,
        f"in this model training items vote (inference.method: {run.inference.method}): the nearest labels alone are not its "
        "tags": run.inference.method != "label-search",
        "images vote in this model: vectors of training items are here those of their texts alone":
        run.inference.image_weight > 0 and not encodes,
        "labels are not encoded like items: take their vectors from `vixml export --to faiss` or `--to parquet`": encodes,
        f"labels have a prompt of their own, {run.encoder.label_template!r}; the export has that of items":
        encodes and run.encoder.label_template not in (None, run.encoder.template),
        "training texts had their HTML removed: remove it before you encode":
        encodes and catalogue is not None and catalogue.strip_html,
    }  # fmt: skip
    return [sentence for sentence, applies in sentences.items() if applies]


def card(folder: ModelFolder, to: str, items: bool, verified: list[str], lost: list[str]) -> str:
    """Return the card, in Markdown."""
    own = (folder.folder / "README.md").read_text(encoding="utf-8") if "README.md" in folder else ""
    rest = own[own.index("## Scores") :] if "## Scores" in own else ""
    fields = " + ".join(map(plain, folder.dataset.text_fields))
    lines = [
        f"# {plain(folder.dataset.title)}: {folder.header['run']}, {WHAT[to]}",
        "",
        f"Written by `vixml export --to {to}` from a model that tags items with {folder.header['n_labels']:,} labels. "
        f"The text of an item is {fields}, joined by spaces.",
        "",
        "```python",
        USE[to].rstrip(),
        "```",
        "",
        "## Verified",
        "",
        *(f"- {line}" for line in verified),
        "",
        "## What is lost",
        "",
        *(f"- {line[0].upper()}{plain(line[1:])}." for line in lost),
        *([] if lost else ["Nothing: nearest labels by inner product are the model's tags."]),
        "",
    ]
    if rest:
        lines += ["# The model that it was made from", "", "Its scores are those of the whole model.", ""]
        lines.append(rest if items else without_items(rest))
    return FRONT.get(to, "") + "\n".join(lines)
