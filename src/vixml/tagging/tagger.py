"""Tag new items with a packed model, in Python: ``Tagger.load(folder).tag(["fishing rod"])``.

Vectors, search and votes are those of the pipeline's own functions, so the tags of a test split are its predictions. What
depends on the model alone (label vectors, their checks) is prepared once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vixml.config.fields import fields_of
from vixml.data.lexical import DIM as LEXICAL_DIM
from vixml.data.lexical import fold, tf_idf
from vixml.data.texts import TextRules
from vixml.data.tokens import load_tokenizer
from vixml.errors import VixmlError, expect_equal
from vixml.images.decode import Undrawable, draw_or_prepare, prepare
from vixml.images.embeddings import ImageEmbeddings
from vixml.models.encode import encode_items, expect_direction
from vixml.models.inputs import most_of_text, prompts
from vixml.models.packing import MULTIPLE, Sequences
from vixml.models.siamese import at_precision
from vixml.progress import warn
from vixml.ragged import Ragged, offsets_of
from vixml.retrieval.ranking import LINEAR, Queries, rank_labels, searched_labels
from vixml.retrieval.search import SPARE, UNIT, decide, no_labels, on_device, search
from vixml.retrieval.vote import with_images, with_lexical
from vixml.runtime import choose_precision, find_device
from vixml.tagging.model_folder import COPY_AGAIN, HEADER, LABELS, LANGUAGE, NEIGHBOURS, ModelFolder
from vixml.tagging.thumbnails import Thumbnails

T = TypeVar("T")
ImageSource = str | Path | bytes | Image.Image
Item = str | Mapping[str, Any]
IMAGES, TEXT = "images", "text"
FEW = 16  # items that are answered at once: an encoder's stream is short, and labels are not copied for a search
FILLED = 8  # streams of few items are filled up to a multiple of this length
ITEMS_AT_ONCE, IMAGES_AT_ONCE, PIXELS_AT_ONCE = 4096, 128, 64
MAX_BYTES = 1 << 26  # of an image's file


@dataclass(frozen=True)
class Voter:
    """A training item near an item, which has the label.

    Attributes:
        id: its id in the training table.
        text: its text.
        similarity: cosine of the two items' vectors.
        row: its row among the model's training items (:meth:`Tagger.thumbnail`).
    """

    id: str
    text: str
    similarity: float
    row: int


@dataclass(frozen=True)
class Tag:
    """A label of an item.

    Attributes:
        label: its text.
        id: its id in the table of labels; the text where it has none.
        score: orders the labels of one item; no probability.
        voters: the nearest training items that have the label, nearest first. Where the model searches labels only
            (:attr:`Tagger.votes` is False) they explain a tag and did not decide it.
        probability: that the label is true, for items like those of train; None where nothing was held out to tell
            (:attr:`Tagger.calibration`), and for added labels.
    """

    label: str
    id: str
    score: float
    voters: tuple[Voter, ...] = ()
    probability: float | None = None


@dataclass(frozen=True)
class Read:
    """An item as the encoder reads it.

    Attributes:
        text: its cleaned text.
        pixels: its images, (size, size, 3) uint8 each.
        faults: why other images of it cannot be read.
    """

    text: str
    pixels: tuple[np.ndarray, ...] = ()
    faults: tuple[str, ...] = ()


class Unreadable(VixmlError):
    """Report an item that cannot be tagged."""


class Tagger:
    """A packed model that tags new items; made by :meth:`load`. Search is exact, whatever ``inference.index`` of the run.

    Attributes:
        folder: the opened model folder, its run at the precision that is computed in.
        labels: text of each label, or its id if it has none; added ones come last.
        ids: likewise their ids.
        calibration: what scores are worth: probabilities, thresholds, and the limit for items unlike all others; None if
            no items were held out to tell.
        n_known: number of labels that were trained.
        offset: added to the similarity of added labels; set it at any time (:meth:`add_labels`).
        prompts: split -> how a sequence is laid out.
        most: tokens of a text that are read.
        bare: whether a text has no special tokens around it (a decoder's).

    Example:
        >>> tagger = Tagger.load("shop.model")  # doctest: +SKIP
        >>> [(tag.label, tag.score) for tag in tagger.tag(["fishing rod"])[0]]  # doctest: +SKIP
        [('fishing', 0.83), ('outdoor', 0.71)]
    """

    def __init__(self, folder: ModelFolder, device: torch.device, precision: str) -> None:
        wanted = folder.run.training.precision if precision == "auto" else precision
        self.precision = choose_precision(wanted, device, folder.run.encoder.frozen_weights)
        folder = replace(folder, run=at_precision(folder.run, self.precision))
        run, tokens = folder.run, folder.header["tokens"]
        self.folder, self.device, self._run = folder, device, run
        self.bare = tokens["special"] == "bare"
        self.prompts = prompts(run, folder.folder / LANGUAGE, tokens)
        self._tokenizer = load_tokenizer(folder.folder / LANGUAGE, run.encoder.max_len, bare=self.bare)
        self.most = most_of_text(run, tokens)
        # A decoder without words around the text has nothing else to read.
        self._needs_token = self.bare and not self.prompts["train"].token_ids
        self._model = folder.model(self.prompts["train"], device).to(device)
        self._vision = folder.vision(device, precision)
        self._fields = folder.dataset.text_fields
        n, dim = folder.header["n_labels"], folder.header["dim"]
        self._expect_sizes()
        names = folder.items(LABELS, n)
        self.ids = names["id"].to_pylist()
        self.labels = [text or key for text, key in zip(names["text"].to_pylist(), self.ids, strict=True)]
        self.n_known, self._offset = len(self.labels), 0.0
        self._known = {name: folder.vectors(f"{LABELS}/{name}.npy", n, dim) for name in searched_labels(run.inference)}
        self._added = {name: vectors[:0] for name, vectors in self._known.items()}
        self._linear = folder.linear()
        lexical = run.inference.lexical_weight > 0 or self._linear is not None
        self._term_weights = folder.term_weights() if lexical else None
        self._voters = self._voter_labels = self._voter_items = None
        self._thumbnails, self.calibration = Thumbnails.open(folder), folder.calibration()
        if self.votes or f"{NEIGHBOURS}/vectors.npy" in folder:
            self._open_voters()
        self._prepare()

    @classmethod
    def load(
        cls, folder: Path | str, device: str = "auto", threads: int | None = None, precision: str = "auto"
    ) -> Tagger:
        """Open a model folder; every file is verified, and none runs code.

        Args:
            device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
            threads: processor threads of this process; None leaves torch's number.
            precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``; auto is what this machine multiplies natively. Scores of
                two precisions differ in the third digit. Frozen weights in bfloat16 cannot be computed with in fp16.

        Raises:
            VixmlError: no model folder, a damaged one, one whose parts do not fit each other, or one of a newer version.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        return cls(ModelFolder.open(folder), find_device(device), precision)

    def _expect_sizes(self) -> None:
        """Check that the networks give vectors of the sizes that the header says."""
        header, what = self.folder.header, "a network of a model folder does not fit its header"
        needed = self._run.needs_embeddings
        sizes = (self._model.backbone.dim, None if self._vision is None else self._vision.dim)
        expected = (header["dim"], header["image_dim"] if needed else None)
        expect_equal(sizes, expected, what, where=self.folder.folder / HEADER, hint=COPY_AGAIN)

    def _open_voters(self) -> None:
        """Open the training items: one vector, list of labels, id and text each."""
        folder, how, labels = self.folder, self._run.inference, self.folder.folder / NEIGHBOURS / "labels"
        self._voter_labels = Ragged.load(labels)
        what, n_labels = "labels of the training items are not those of the model", folder.header["n_labels"]
        expect_equal(self._voter_labels.n_cols, n_labels, what, where=labels, hint=COPY_AGAIN)
        n, width = len(self._voter_labels), folder.header["dim"]
        width += self._vision.dim if how.image_weight > 0 else 0
        width += LEXICAL_DIM if how.lexical_weight > 0 else 0  # as in queries()
        self._voters = on_device(folder.vectors(f"{NEIGHBOURS}/vectors.npy", n, width), self.device)
        self._voter_items = folder.items(NEIGHBOURS, n)

    @property
    def votes(self) -> bool:
        """Return whether training items vote in this model's inference."""
        return self._run.inference.method != "label-search"

    @property
    def reads_images(self) -> bool:
        """Return whether images change the tags."""
        return self._vision is not None

    @property
    def image_size(self) -> int:
        """Return the side in pixels to which an image is prepared (:func:`vixml.images.decode.draw_or_prepare`).

        Raises:
            VixmlError: a model that reads no images.
        """
        if self._vision is None:
            raise VixmlError("this model reads text only", where=self.folder.folder)
        return self.folder.dataset.image_size or self._vision.image_size

    def thumbnail(self, row: int) -> bytes | None:
        """Return the JPEG thumbnail of a training item (``Voter.row``); None if it has none."""
        return None if self._thumbnails is None else self._thumbnails.read(row)

    # -- tags ---------------------------------------------------------------------------------------------------------

    def tag(self, items: Iterable[Item], k: int = 10, voters: int = 3) -> list[list[Tag]]:
        """Return the k best labels of each item, best first.

        Args:
            items: texts, or mappings with the columns of the training table: its text fields or ``text``, and, under
                ``images``, else under each of the table's own columns of them (not of ids that name images), an image
                or a list of them (a path, bytes or a PIL image), best first. More than the run's ``images.per_item`` are
                not looked at.
            k: labels of an item; fewer where the training items that vote have fewer.
            voters: training items named with a tag at most; 0 is quicker.

        Raises:
            VixmlError: an item without text and image, or with an image that cannot be read (it is named), k below 1.
        """
        return [tags for read in self._chunks(items) for tags in self.tags(self.queries(read), k, voters)]

    def tags(self, queries: Queries, k: int, voters: int = 3) -> list[list[Tag]]:
        """Return the k best labels of each query (:meth:`queries`); otherwise as :meth:`tag`."""
        return self.described(queries, *self.rank(queries, k), voters)

    def described(self, queries: Queries, ids: np.ndarray, scores: np.ndarray, voters: int = 3) -> list[list[Tag]]:
        """Return what :meth:`rank` found as tags, with voters as in :meth:`tag`."""
        named = self._name_voters(queries, ids, voters)
        chances = [[None] * ids.shape[1]] * len(ids) if self.calibration is None else self.calibration(scores).tolist()
        return [
            [
                Tag(
                    self.labels[label],
                    self.ids[label],
                    score,
                    named.get((row, label), ()),
                    chance if label < self.n_known else None,
                )
                for label, score, chance in zip(ids[row].tolist(), scores[row].tolist(), chances[row], strict=True)
                if label >= 0
            ]
            for row in range(len(ids))
        ]

    def similarity(self, queries: Queries) -> np.ndarray:
        """Return how near each query is to its nearest training item: (n,) float32 cosines (:meth:`Calibration.alarm`).

        Raises:
            VixmlError: the folder was packed without training items.
        """
        if self._voters is None:
            hint = "pack it with its neighbours"
            raise VixmlError("this model holds no training items to compare with", where=self.folder.folder, hint=hint)
        return self._search(queries.voting, self._voters, 1)[1][:, 0]

    def encode(self, items: Iterable[Item]) -> np.ndarray:
        """Return the vector of each item, (n, dim) float32, of unit length; arguments and errors are those of :meth:`tag`."""
        found = [self._encode(read, "train")[0] for read in self._chunks(items)]
        return np.concatenate([np.zeros((0, self.folder.header["dim"]), np.float32), *found])

    def _chunks(self, items: Iterable[Item]) -> Iterator[list[Read]]:
        """Yield items as the encoder reads them, some at a time; an image that cannot be read is an error."""
        if isinstance(items, (str, Mapping)):
            what = "one item in place of a list of items"
            raise VixmlError(what, where="items", found=repr(items)[:80], hint="[item]")
        yield from in_chunks(map(self._whole, count(), items), lambda read: len(read.pixels))

    def _whole(self, number: int, item: Item) -> Read:
        """Return an item as the encoder reads it; an image that cannot be read is an error."""
        read = self.read(item, f"item {number}")
        if read.faults:
            raise Unreadable("an image of an item cannot be read", where=f"item {number}", found=read.faults[0])
        return read

    # -- items --------------------------------------------------------------------------------------------------------

    def read(
        self, item: Item, where: str = "item", fields: Sequence[str] | None = None, pixels: Sequence[np.ndarray] = ()
    ) -> Read:
        """Return an item as the encoder reads it; an image that cannot be read is among its ``faults``.

        Args:
            item: as in :meth:`tag`.
            where: its name in errors.
            fields: keys of its text; None: those of the training table, or ``text``.
            pixels: of :meth:`pixels`, for images that were prepared elsewhere.

        Raises:
            Unreadable: something else than a text or a mapping, no column of text, or neither text nor an image.
        """
        text, images = self._parts(item, where, fields)
        pixels, faults = [*pixels[: self._run.images.per_item]], []
        for number, image in enumerate(images):
            if len(pixels) == self._run.images.per_item:
                break
            try:
                pixels.append(self._pixels(image))
            except (Undrawable, OSError, ValueError, SyntaxError) as error:
                faults.append(f"image {number + 1}: {error}"[:300])
        if not text and not pixels:
            found = "; ".join(faults) or "an empty text, no image"
            raise Unreadable("an item has neither text nor an image", where=where, found=found)
        if self._needs_token and not pixels and not self._tokenizer.encode(text, add_special_tokens=False).ids:
            raise Unreadable("the text of an item has no token", where=where, found=repr(text)[:80])
        return Read(text, tuple(pixels), tuple(faults))

    def _parts(self, item: Item, where: str, fields: Sequence[str] | None) -> tuple[str, Sequence[ImageSource]]:
        """Return text and images of an item."""
        if isinstance(item, str):
            item = {TEXT: item}
        if not isinstance(item, Mapping):
            expected = "a text, or a mapping with text and images"
            raise Unreadable("not an item", where=where, found=type(item).__name__, expected=expected)
        if "pictures" in item:  # the former name
            item = {IMAGES: item["pictures"], **item}
        fields = fields or (self._fields if set(self._fields) & item.keys() else (TEXT,))
        catalogue = self.folder.dataset.catalogue
        columns = [IMAGES]
        # Where images are found by an id, a column names none.
        if catalogue is not None and catalogue.images and catalogue.images_are != "ids":
            own = [catalogue.images] if catalogue.images in item else fields_of(catalogue.images)
            columns = [IMAGES] if IMAGES in item and IMAGES not in own else own
        if not {*fields, *columns, IMAGES} & item.keys():
            found, expected = ", ".join(map(str, item)) or "nothing", " + ".join(self._fields)
            expected += f", or {TEXT}, {IMAGES}"
            raise Unreadable("an item lacks the columns of text", where=where, found=found, expected=expected)
        cells = [cell for column in columns if (cell := item.get(column)) is not None]
        images = [one for cell in cells for one in (cell if isinstance(cell, (list, tuple)) else [cell])]
        if images and not self.reads_images:
            _warn_once(f"{self.folder.folder}: this model reads text only; images are not looked at")
            images = []
        html = catalogue is not None and catalogue.strip_html  # as the texts that were trained on
        return TextRules(fields, html=html).text(item, where), images

    def _pixels(self, image: ImageSource) -> np.ndarray:
        """Return an image as the vision encoder reads it: (size, size, 3) uint8."""
        if isinstance(image, Image.Image):
            return self.pixels(prepare(image, self.image_size))
        if isinstance(image, (str, Path)):
            if "://" in str(image):
                raise Undrawable(f"an address, which is not fetched: {image}")
            image = _file(Path(image))
        elif not isinstance(image, bytes):
            raise Undrawable(f"neither a path nor bytes nor a PIL image: {type(image).__name__}")
        # Prepared as the images of the training items were, then read as they were.
        return self.pixels(draw_or_prepare(image, self.image_size))

    def pixels(self, prepared: bytes) -> np.ndarray:
        """Return a prepared image (PNG, :attr:`image_size`) as the vision encoder reads it: (size, size, 3) uint8."""
        return self._vision.preprocess(prepared)

    def n_tokens(self, items: Sequence[Read]) -> list[int]:
        """Return the number of tokens of each item's text that the encoder reads."""
        found = self._tokenizer.encode_batch_fast([item.text for item in items], add_special_tokens=not self.bare)
        return [min(self.most, len(encoding.ids)) for encoding in found]

    # -- vectors ------------------------------------------------------------------------------------------------------

    def queries(self, items: Sequence[Read]) -> Queries:
        """Return what :meth:`rank` searches with."""
        text, images, lists = self._encode(items, "train")
        how, voting = self._run.inference, text
        if how.image_weight > 0:
            voting = with_images(voting, images, lists, how.image_weight)
        if self._term_weights is None:
            return Queries(text, voting)
        terms = tf_idf([item.text for item in items], self._term_weights)
        if how.lexical_weight > 0:
            voting = with_lexical(voting, fold(terms), how.lexical_weight)
        return Queries(text, voting, None if self._linear is None else self._linear.features(terms))

    def _encode(self, items: Sequence[Read], split: str, unit: bool = True) -> tuple[np.ndarray, Any, Any]:
        """Return the items' vectors, their image vectors, and which of these each item has."""
        vectors, lists = None, None
        if self._vision is not None:
            pixels = list(chain.from_iterable(item.pixels for item in items))
            vectors = ImageEmbeddings(self._pool(pixels), np.zeros(0, np.int64), self._vision.name, self.folder.folder)
            offsets = offsets_of([len(item.pixels) for item in items])
            lists = Ragged(np.arange(len(pixels), dtype=np.int32), offsets, len(pixels))
        encodings = self._tokenizer.encode_batch_fast([item.text for item in items], add_special_tokens=not self.bare)
        rows = [encoding.ids for encoding in encodings]
        offsets = offsets_of([len(row) for row in rows])
        tokens = Ragged(np.fromiter(chain.from_iterable(rows), np.int32, offsets[-1]), offsets, 1 << 31)
        tokens = tokens.first(self.most)
        images, gather = (lists, partial(vectors.gather, dtype=np.float16)) if self._run.uses_images else (None, None)
        sequences = Sequences(tokens, images, self.prompts[split], gather)
        filled = FILLED if len(items) <= FEW else MULTIPLE
        u = encode_items(self._model, sequences, self.precision, self._run.training.items_at_once, multiple=filled)
        expect_direction(u, "items to tag")
        return (F.normalize(u, dim=1) if unit else u).numpy(), vectors, lists

    def _pool(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Return one vector per image: (n, image_dim) float16."""
        out = np.zeros((len(pixels), self._vision.dim), np.float16)
        for start in range(0, len(pixels), PIXELS_AT_ONCE):
            some = slice(start, start + PIXELS_AT_ONCE)
            out[some] = self._vision.encode(torch.from_numpy(np.stack(pixels[some]))).half().cpu().numpy()
            expect_direction(torch.from_numpy(out[some]).float(), "images to tag")
        return out

    # -- labels -------------------------------------------------------------------------------------------------------

    def rank(self, queries: Queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best labels of each query.

        Local ridge votes compare the labels of the neighbours and the ``inference.top_k`` best of each search. So the first
        ``top_k`` labels, whatever k, are the pipeline's; a larger k adds the best of those that a larger search finds.

        Returns:
            ``(labels, scores)``: (n, k) int32 rows of :attr:`labels`, best first, -1 where there are no more; float32.

        Raises:
            VixmlError: k below 1.
        """
        if k < 1:
            raise VixmlError("an item needs one tag or more", where="k", found=k, expected="1 or more")
        asked, how = replace(queries, text=self._extended(queries.text, 1.0)), self._run.inference

        def best(top_k: int) -> tuple[np.ndarray, np.ndarray]:
            some = how.model_copy(update={"top_k": top_k})
            return rank_labels(asked, self._searched, self._voters, self._voter_labels, some, search=self._search)

        if how.method != "local-ridge":  # what is compared does not depend on k
            return best(k)
        ids, scores = best(how.top_k)
        return (ids[:, :k], scores[:, :k]) if k <= how.top_k else _followed(ids, scores, *best(k))

    def add_labels(self, labels: Iterable[Item], offset: float | None = None) -> None:
        """Add labels without training; they compete with the known ones from now on.

        A new label's vector is that of its text (and images) through the prototype network, with the free vector of the
        nearest known label, or the text vector alone where the model searches by text vectors or has no prototype network.
        It has a price. Measured on a catalogue with 53 new labels: R@10 of 46 on items that have them, at a cost of 3 points
        on the known labels. No training query has a new label, so label search finds it far more often than local ridge votes
        do (docs/deviations.md D34). An ``offset`` trades known labels for new ones: below 0 it favours the known. Choose it on
        held-out labels: train a run without some labels, pack it, add them, set :attr:`offset` to a few values between -0.2
        and 0.2, and keep the one whose tags of held-out items are best.

        Args:
            labels: texts, or mappings as in :meth:`tag`, or one of them; ``id`` names a label, else its text does.
            offset: added to the inner product of the items with added labels; None leaves :attr:`offset`.

        Raises:
            VixmlError: a label that is there already or has no text, or a model in which training items alone vote.
        """
        if not self._known:
            hint = "use a run whose inference searches labels"
            raise VixmlError("only labels of training items can be voted for", where=self.folder.folder, hint=hint)
        labels = [labels] if isinstance(labels, (str, Mapping)) else list(labels)
        read = [self.read(label, f"label {number}") for number, label in enumerate(labels)]
        names, ids = set(self.labels), set(self.ids)
        added_ids = []
        for number, (label, one) in enumerate(zip(labels, read, strict=True)):
            key = str(label["id"]) if isinstance(label, Mapping) and label.get("id") is not None else one.text
            if not one.text or one.text in names or key in ids or one.faults:
                found = one.faults[0] if one.faults else f"{one.text!r}, id {key!r}"
                expected = "a text and an id that no other label has, and images that can be read"
                raise VixmlError("a label cannot be added", where=f"label {number}", found=found, expected=expected)
            names.add(one.text)
            ids.add(key)
            added_ids.append(key)
        if read:
            added = self._new_vectors(read)
            self._added = {name: np.concatenate([self._added[name], added[name]]) for name in self._known}
            self.labels, self.ids = self.labels + [one.text for one in read], self.ids + added_ids
        self.offset = self._offset if offset is None else offset

    @property
    def adds_labels(self) -> bool:
        """Return whether labels can be added: not where training items alone vote."""
        return bool(self._known)

    def with_labels(self, labels: Iterable[Item], offset: float = 0.0) -> Tagger:
        """Return a tagger with further labels; this one stays as it is.

        It shares the networks. Its label vectors and a linear model's coefficients are copies: ``4 * dim`` bytes per label of
        the model, and 128 MB at most.

        Args:
            labels, offset: as in :meth:`add_labels`; the errors are the same.
        """
        other = copy.copy(self)
        other.add_labels(labels, offset)
        return other

    @property
    def offset(self) -> float:
        """Return what is added to the inner products of added labels."""
        return self._offset

    @offset.setter
    def offset(self, value: float) -> None:
        self._offset = float(value)
        self._prepare()

    @torch.no_grad()
    def _new_vectors(self, labels: Sequence[Read]) -> dict[str, np.ndarray]:
        """Return the vectors of new labels, as inference searches them: ``u`` or ``z`` -> (n, dim) float32 unit rows."""
        u = torch.from_numpy(self._encode(labels, "label", unit=False)[0])
        unit = F.normalize(u, dim=1)
        found = {"u": unit.numpy()}
        if "z" in self._known and self._model.prototypes is None:  # all-labels: a label without training items
            found["z"] = found["u"]
        elif "z" in self._known:
            known = self.folder.vectors(f"{LABELS}/u.npy", self.n_known, found["u"].shape[1])
            nearest = search(found["u"], known, 1)[0][:, 0]
            model, device = self._model, self.device
            cluster = model.cluster[torch.from_numpy(nearest).long().to(device)]
            more = (unit.to(device),) if model.has_centroids else ()  # D7: without training items, the text vector
            found["z"] = model.prototypes(u.to(device), cluster, *more).float().cpu().numpy()
        return found

    def _prepare(self) -> None:
        """Set what is searched: the vectors of all labels, extended as the queries are."""
        self._search, self._searched = _Search(self.device), {}
        for name, vectors in self._known.items():
            if self._extends:
                added = self._extended(self._added[name], self._offset)
                vectors = np.concatenate([self._extended(vectors, 0.0), added])
            self._searched[name] = on_device(vectors, self.device)
        if self._linear is not None:
            coefficients = self._linear.coefficients
            new = np.zeros((len(coefficients), len(self.labels) - self.n_known), np.float32)
            self._searched[LINEAR] = np.concatenate([coefficients, new], axis=1) if self._extends else coefficients
        if self._voters is not None:
            self._voter_labels = replace(self._voter_labels, n_cols=len(self.labels))

    @property
    def _extends(self) -> bool:
        return len(self.labels) > self.n_known

    def _extended(self, vectors: np.ndarray, value: float) -> np.ndarray:
        """Append a column if labels were added: 1 for queries times the offset of a label is the offset."""
        if not self._extends:
            return vectors
        return np.concatenate([vectors, np.full((len(vectors), 1), value, np.float32)], axis=1)

    def _name_voters(self, queries: Queries, ids: np.ndarray, most: int) -> dict[tuple[int, int], tuple[Voter, ...]]:
        """Return (row, label) -> the nearest training items that have the label."""
        if most < 1 or self._voters is None or not len(queries):
            return {}
        how = self._run.inference
        retrieved = how.retrieved_labels if how.search == "joint" else how.retrieved_queries
        counts = {"retrieval-augmented": retrieved, "local-ridge": how.ridge.neighbours}
        count = counts.get(how.method, how.neighbours)  # those that voted; where none did, a few
        nearest, scores = self._search(queries.voting, self._voters, count)
        found: dict[tuple[int, int], tuple[Voter, ...]] = {}
        for row, (voters, similarities) in enumerate(zip(nearest.tolist(), scores.tolist(), strict=True)):
            wanted = set(ids[row].tolist())
            for voter, similarity in zip(voters, similarities, strict=True):
                for label in wanted & set(self._voter_labels.row(voter).tolist()) if voter >= 0 else ():
                    named = found.get((row, label), ())
                    if len(named) < most:
                        item = (self._voter_items[column][voter].as_py() for column in ("id", "text"))
                        found[row, label] = (*named, Voter(*item, similarity, voter))
        return found


class _Search:
    """Exact search (:mod:`vixml.retrieval.search`) whose labels are checked once, and few queries answered at once."""

    kind, memory_mb = "exact", 256.0

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.checked: list[tuple[np.ndarray, float]] = []

    def __call__(
        self, queries: np.ndarray, labels: np.ndarray | Tensor, k: int, filter: None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what :func:`vixml.retrieval.search.search` returns."""
        if queries.shape[1] > labels.shape[1]:  # voters have no column of offsets
            queries = np.ascontiguousarray(queries[:, : labels.shape[1]])
        if isinstance(labels, np.ndarray) and 0 < len(queries) <= FEW and len(labels):
            ids, scores, sure = self._few(queries, labels, k)
            if sure:
                return ids, scores
        return search(queries, labels, k, memory_mb=self.memory_mb, device=self.device, checked=True)

    def _few(self, queries: np.ndarray, labels: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """Propose by one float32 product, decide in float64; the last value says whether nothing can be missed."""
        m, dim = labels.shape
        proposed, width = min(k + SPARE[torch.float32], m), min(k, m)
        products = torch.from_numpy(queries) @ torch.from_numpy(labels).T
        last, near = products.topk(proposed, dim=1, sorted=True)
        ids, scores = decide(queries, labels, near.numpy(), k)
        if proposed == m:
            return ids, scores, True
        longest = self._longest(labels)
        # As in vixml.retrieval.search.propose: the error of a sum of dim products.
        error = 1.01 * (dim + 4) * UNIT * np.linalg.norm(queries, axis=1) * longest
        return ids, scores, bool((last[:, -1].numpy() + 2 * error < scores[:, width - 1]).all())

    def _longest(self, labels: np.ndarray) -> float:
        """Return the largest norm of these labels, computed once."""
        for known, longest in self.checked:
            if known is labels:
                return longest
        self.checked.append((labels, float(np.einsum("ij,ij->i", labels, labels).max()) ** 0.5))
        return self.checked[-1][1]


def _followed(
    ids: np.ndarray, scores: np.ndarray, more: np.ndarray, more_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of each row, and behind them those that only a longer ranking has, as long as that one."""
    out, out_scores = no_labels(*more.shape)
    for row, first in enumerate(ids >= 0):
        new = (more[row] >= 0) & ~np.isin(more[row], ids[row])
        for to, known, others in ((out, ids, more), (out_scores, scores, more_scores)):
            joined = np.concatenate([known[row, first], others[row, new]])[: more.shape[1]]
            to[row, : len(joined)] = joined
    return out, out_scores


def in_chunks(items: Iterable[T], images: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield items that are in memory together: few where they have images."""
    chunk: list[T] = []
    n_images = 0
    for item in items:
        chunk.append(item)
        n_images += images(item)
        if len(chunk) == ITEMS_AT_ONCE or n_images >= IMAGES_AT_ONCE:
            yield chunk
            chunk, n_images = [], 0
    if chunk:
        yield chunk


def _file(path: Path) -> bytes:
    """Return an image's file."""
    if not path.is_file():  # a device would be read for ever
        raise Undrawable(f"no such file: {path}")
    if path.stat().st_size > MAX_BYTES:
        raise Undrawable(f"too large: {path.stat().st_size} bytes")
    return path.read_bytes()


_warn_once = cache(warn)
