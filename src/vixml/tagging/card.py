"""The model card: ``README.md`` of a model folder."""

from __future__ import annotations

from vixml.config.run import RunConfig
from vixml.data.corpus import Corpus
from vixml.files import read_json
from vixml.provenance import MANIFEST
from vixml.retrieval.ranking import adds_linear
from vixml.stages import Job
from vixml.text import markdown, plain

SHOWN = ("P@1", "P@3", "P@5", "PSP@1", "PSP@5", "R@10", "R@100")
INFERENCE = {
    "label-search": "the labels nearest to the item (vectors `{labels_as}`)",
    "knn": "votes of the {neighbours} nearest training items",
    "local-ridge": "votes of the {ridge[neighbours]} nearest training items, weighted by a ridge regression, and the nearest labels",
    "retrieval-augmented": "the nearest labels (weight {label_weight}) and votes of the nearest training items",
}
INCLUDED = "Training items are included: ids, texts, labels and vectors. Whoever gets the folder can read them."
THUMBNAILS = " Small images of them are, too."
LEFT_OUT = "Training items are left out."
CONTINUED = ", which this training did not see (but the model that it started from may have been trained on some)"


def card(job: Job, config: RunConfig, corpus: Corpus, neighbours: bool, thumbnails: bool = False) -> str:
    """Return the card, in Markdown: scores, intended use, data, licences."""
    dataset, world = job.dataset, job.project.world
    text_model = job.project.text_model(config.encoder.model)
    how = INFERENCE.get(config.inference.method, config.inference.method).format(**config.inference.model_dump())
    how += ", and a linear model on TF-IDF" if adds_linear(config.inference) else ""
    reads = f"text and up to {config.images.per_item} images per item" if config.needs_embeddings else "text"
    licences = {f"data: {name}": world.sources[name].licence for name in dataset.sources}
    licences[f"language model: {text_model.checkpoint}"] = text_model.licence
    if config.needs_embeddings:
        vision = job.project.vision_model(config.images.vision)
        licences[f"vision encoder: {vision.checkpoint}"] = vision.licence
    lines = [
        f"# {plain(dataset.title)}: {job.names['run']}, seed {job.names['seed']}",
        "",
        f"Tags items with up to {corpus.n_labels:,} labels. Reads {reads}; ranks labels by {how}.",
        "",
        "```python",
        "from vixml import Tagger",
        "",
        'Tagger.load("this folder").tag(["a text"], k=10)',
        "```",
        "",
        "## Scores",
        "",
        *_scores(job),
        "",
        "## Intended use",
        "",
        f"To propose labels for items like those of {plain(dataset.title)}, for people or programs that can reject a wrong one. A "
        "score orders the labels of one item; `calibration.json`, where there is one, says what it is worth. Labels that no "
        "training item had, and texts of another kind or language, get worse tags than the scores above say.",
        "",
        "## Data",
        "",
        f"{corpus.n('train'):,} training items, {corpus.n('test'):,} test items, {corpus.n_labels:,} labels. "
        + (INCLUDED + THUMBNAILS * thumbnails if neighbours else LEFT_OUT),
        "",
        f"Language model: {plain(text_model.title)} ({config.encoder.train}).",
        "",
        "## Licences",
        "",
        markdown(["part", "licence"], [[plain(part), plain(licence)] for part, licence in licences.items()], words={1}),
        *([] if world.datasets[job.names["dataset"]].sources else ["", "The data are the owner's own: ask them."]),
        "",
    ]
    return "\n".join(lines)


def without_items(text: str) -> str:
    """Return a card that says that the training items are left out."""
    return text.replace(INCLUDED, LEFT_OUT).replace(THUMBNAILS, "")


def _scores(job: Job) -> list[str]:
    """Return the lines about scores on the test split."""
    folder = job.folder("score")
    if not (folder / MANIFEST).exists():
        return ["The run was not scored."]
    found = read_json(folder / "scores.json")
    names = [name for name in SHOWN if name in found["metrics"]]
    table = markdown(names, [[f"{found['metrics'][name]:.1f}" for name in names]])
    return [
        f"Percent, on {found['n_queries']:,} test items{CONTINUED if job.run.start else ' that no training saw'}:",
        "",
        table,
    ]
