"""The text encoder of a model folder in the form that other programs know: padded token ids, masks, one tokenizer file.

Our encoder reads packed sequences, whose prompt is given as token ids. Here the prompt is part of ``tokenizer.json``, the
vocabulary is whole, adapters are merged, and positions are those that the network counts by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, normalizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.nn import functional as F

from vixml.data.tokens import load_tokenizer
from vixml.errors import VixmlError
from vixml.files import read_json, write_json
from vixml.models.prompt import IMAGES, TEXT, Prompt
from vixml.models.siamese import Siamese
from vixml.tagging.model_folder import LABELS, LANGUAGE, NEIGHBOURS, ModelFolder
from vixml.tagging.tagger import Tagger, Unreadable

TOLERANCE = 1e-5
SAMPLE = 48  # texts that an export is verified with
# The rules for texts (vixml.data.texts): a line break and the space around it is one space.
BREAKS = r"(?<![\s\x1c-\x1f])[\s\x1c-\x1f]*[\n\r\x0b\x0c\x1c-\x1e\x{85}\x{2028}\x{2029}][\s\x1c-\x1f]*"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TextEncoder(nn.Module):
    """Token ids to unit vectors, as the model encodes items that have text alone.

    Args:
        model: the trained networks, on the CPU; its language model is changed.
        around: special ids before and after each text.
        most: tokens of a text that are kept, those of ``around`` included.

    Attributes:
        network: the language model, an ``AutoModel`` of transformers.
        last: whether the last token is the vector, not the mean of all tokens.
        centre: (dim,) float32, subtracted from the unit vector; None: nothing is.
        late: the layer that fuses images (docs/deviations.md D20); it changes a text alone, too. None: there is none.
        gap: ``(position, width)`` of a gap in the positions, which the network does not count by itself; None: no gap.
        before, after: ids around the tokens of each text, the prompt's words among them.
    """

    def __init__(
        self, model: Siamese, pooling: str, prompt: Prompt, around: tuple[list[int], list[int]], most: int
    ) -> None:
        super().__init__()
        network = model.backbone.network
        network = network.merge_and_unload() if hasattr(network, "peft_config") else network
        network.set_attn_implementation("sdpa")
        self.network, self.late = network.float().eval(), model.late
        self.last, self.centre = pooling == "last", model.centre if model.centred else None
        self.causal, self.dim = model.backbone.causal, model.backbone.dim
        at = prompt.pieces.index(TEXT)
        words = [list(Prompt(pieces).token_ids) for pieces in (prompt.pieces[:at], prompt.pieces[at + 1 :])]
        self.before, self.after = words[0] + around[0], around[1] + words[1]
        self.most = most - len(around[0]) - len(around[1])
        self.gap = close_gap(self.network, self.longest, _gap(prompt))

    @classmethod
    def of(cls, tagger: Tagger) -> TextEncoder:
        """Return the text encoder of a model, opened in fp32 on the CPU."""
        folder, prompt = tagger.folder, tagger.prompts["train"]
        model = folder.model(prompt, tagger.device, lean=False)
        around = ([], []) if tagger.bare else _around(load_tokenizer(folder.folder / LANGUAGE))
        return cls(model, folder.run.encoder.pooling, prompt, around, tagger.most)

    @property
    def longest(self) -> int:
        """Return the most tokens of a sequence, those around the text included."""
        return len(self.before) + self.most + len(self.after)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode padded sequences: (n, dim) float32 unit rows.

        Args:
            input_ids: (n, length) int64, padded behind the last token.
            attention_mask: (n, length) int64, 1 for tokens, 0 for padding.
        """
        length = input_ids.shape[1]
        positions = torch.arange(length, device=input_ids.device)
        # Written out, so that an exporter meets no code that looks at the mask's content.
        seen = attention_mask[:, None, None, :] > 0
        if self.causal:
            seen = seen & (positions[None, :] <= positions[:, None])
        blocked = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
        given: dict[str, Any] = {}
        if self.gap is not None:
            given["position_ids"] = (positions + self.gap[1] * (positions >= self.gap[0]))[None]
        hidden = self.network(
            input_ids=input_ids, attention_mask=blocked.expand(-1, 1, length, length), **given
        ).last_hidden_state
        mask = attention_mask[:, :, None].to(hidden.dtype)
        if self.last:  # the mask's last 1, by a product: every runtime knows it
            final = mask - F.pad(mask, (0, 0, 0, 1))[:, 1:]
            pooled = (hidden * final).sum(dim=1)
        else:
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        if self.centre is not None:
            pooled = F.normalize(pooled, dim=1) - self.centre
        if self.late is not None:
            pooled = _alone(self.late.layer, pooled)
        return F.normalize(pooled, dim=1)

    def write_tokenizer(self, source: Path, folder: Path, ready: bool = False) -> None:
        """Write ``tokenizer.json`` and its settings into ``folder``, so that texts are cleaned, and the prompt is around each.

        ``source`` is the language model's folder; ``ready``: the file itself cuts long texts and pads a batch.
        """
        tokenizer, settings = load_tokenizer(source), read_json(source / "tokenizer_config.json")
        names = {number: token for token, number in tokenizer.get_vocab().items()}
        special = [
            {"id": name, "ids": ids, "tokens": [names.get(number, f"#{number}") for number in ids]}
            for name, ids in (("before", self.before), ("after", self.after))
            if ids
        ]
        front, back = ["before:0"] * bool(self.before), ["after:0"] * bool(self.after)
        one, other = ([*front, f"${text}:0", *back] for text in "AB")
        tokenizer.post_processor = TemplateProcessing(single=one, pair=one + other, special_tokens=special)
        own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        cleaned = [normalizers.Replace(Regex(BREAKS), " "), normalizers.Strip(), *own]
        tokenizer.normalizer = normalizers.Sequence(cleaned)
        # A special token that the tokenizer does not look for would be looked for in texts from then on.
        known = [token.content for _, token in sorted(tokenizer.get_added_tokens_decoder().items())]
        told = {key: _token(settings.get(key)) for key in NAMED} if isinstance(settings, dict) else {}
        kept = {key: token for key, token in told.items() if token in known}
        blank = kept.get("pad_token") or kept.get("eos_token") or (known[0] if known else names[min(names)])
        if ready:
            tokenizer.enable_truncation(self.longest)
            tokenizer.enable_padding(pad_id=tokenizer.token_to_id(blank), pad_token=blank)
        tokenizer.save(str(folder / "tokenizer.json"))
        kept |= {
            "pad_token": blank,
            "tokenizer_class": "PreTrainedTokenizerFast",  # the file as it is, not a class that builds its own
            "model_max_length": self.longest,
            "model_input_names": ["input_ids", "attention_mask"],
            "padding_side": "right",
            "truncation_side": "right",
            "clean_up_tokenization_spaces": False,
        }
        write_json(folder / "tokenizer_config.json", kept)


def _token(value: Any) -> str | None:
    """Return a token's text; older files write a token as an object."""
    return value.get("content") if isinstance(value, dict) else value


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special ids that a tokenizer puts before and after a text."""
    encoded = tokenizer.encode("a", add_special_tokens=True)
    own = np.flatnonzero(np.asarray(encoded.special_tokens_mask) == 0)
    return encoded.ids[: own[0]], encoded.ids[own[-1] + 1 :]


def _gap(prompt: Prompt) -> tuple[int, int] | None:
    """Return where positions are left for images that are absent, and how many; None: nowhere."""
    order = [piece for piece in prompt.pieces if isinstance(piece, str)]
    if prompt.late or not prompt.image_positions or IMAGES not in order or order[0] == TEXT:
        return None
    return len(Prompt(prompt.pieces[: prompt.pieces.index(IMAGES)]).token_ids), prompt.image_positions


def _alone(layer: nn.TransformerEncoderLayer, text: Tensor) -> Tensor:
    """Return what a pre-norm layer makes of a sequence of one token, which attends to itself with weight 1."""
    attention, dim = layer.self_attn, text.shape[1]
    value = F.linear(layer.norm1(text), attention.in_proj_weight[2 * dim :], attention.in_proj_bias[2 * dim :])
    text = text + F.linear(value, attention.out_proj.weight, attention.out_proj.bias)
    return text + layer.linear2(layer.activation(layer.linear1(layer.norm2(text))))


def close_gap(network: nn.Module, longest: int, gap: tuple[int, int] | None) -> tuple[int, int] | None:
    """Reorder a table of position embeddings, so that the network's own positions are the model's, which count from 0.

    ``gap`` is position and width of a gap in the model's positions. It is returned if it remains: where positions in this
    network are relative, and the gap is behind words.
    """
    counted = torch.arange(longest)
    if gap is not None:
        counted = counted + gap[1] * (counted >= gap[0])
    tables = [module for name, module in network.named_modules() if name.endswith("position_embeddings")]
    tables = [module for module in tables if isinstance(module, nn.Embedding)]
    if not tables:  # a gap in front of everything changes nothing
        return gap if gap is not None and gap[0] else None
    seen: list[Tensor] = []
    hook = tables[0].register_forward_hook(lambda module, given, out: seen.append(given[0].flatten()))
    with torch.no_grad():
        network(input_ids=torch.zeros(1, longest, dtype=torch.int64))
    hook.remove()
    own = seen[0][:longest]
    if not torch.equal(own, counted):
        table = tables[0].weight.detach().clone()
        table[own] = tables[0].weight.detach()[counted]
        tables[0].weight = nn.Parameter(table, requires_grad=False)
    return None


# -- what an export is compared with ----------------------------------------------------------------------------------


def exact_tagger(folder: ModelFolder) -> Tagger:
    """Return the model's tagger in full precision on the CPU, with which exports are compared."""
    return Tagger(folder, torch.device("cpu"), "fp32")


def sample_texts(tagger: Tagger) -> list[str]:
    """Return texts of training items or labels, of many lengths, one of them longer than the model reads."""
    part = NEIGHBOURS if f"{NEIGHBOURS}/items.parquet" in tagger.folder else LABELS
    table = tagger.folder.items(part)
    rows = np.unique(np.linspace(0, len(table) - 1, SAMPLE).astype(int)).tolist()
    texts = [text for text in table["text"].take(rows).to_pylist() if text]
    # Words that training may lack, spaces and a line break that are cleaned, and more than fits.
    texts += ["  Ünïcode\n straße 42 ", " ".join(texts * 8)[:4000]]
    return [text for text in texts if _readable(tagger, text)]


def _readable(tagger: Tagger, text: str) -> bool:
    try:
        tagger.read(text)
    except Unreadable:
        return False
    return True


def expect_vectors(found: np.ndarray, expected: np.ndarray, texts: Sequence[str], what: str) -> None:
    """Check that an export gives the model's vectors.

    Raises:
        VixmlError: another shape, or a component that differs by more than :data:`TOLERANCE`.
    """
    same = found.shape == expected.shape
    apart = np.abs(found - expected).max(axis=1) if same else np.full(1, np.inf)
    if not (apart <= TOLERANCE).all():
        worst = int(np.nanargmax(np.where(np.isnan(apart), np.inf, apart)))
        raise VixmlError(
            f"{what} does not give the model's vectors: nothing is written",
            where=f"text {texts[worst]!r}"[:200],
            found=f"a difference of {apart[worst]:.1e}" if same else f"shape {found.shape}, not {expected.shape}",
            expected=f"at most {TOLERANCE:.0e}",
            hint="report this with the versions that `vixml doctor` prints",
        )
