"""A folder for sentence-transformers: ``SentenceTransformer(folder)``, or ``AutoModel`` and pooling by hand."""

from __future__ import annotations

from pathlib import Path

import torch

from vixml.errors import VixmlError
from vixml.tagging.exports.text_encoder import TextEncoder, expect_vectors, sample_texts
from vixml.tagging.model_folder import LANGUAGE
from vixml.tagging.tagger import Tagger


def write(tagger: Tagger, work: Path) -> list[str]:
    """Write the folder and compare what it gives, opened anew, with the model.

    Args:
        tagger: the model, in fp32.
        work: an empty folder.

    Returns:
        Lines about the check, for the card.

    Raises:
        VixmlError: a model that these modules cannot express, or vectors that differ.
    """
    # vixml.models was imported before, which makes torchvision importable.
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    encoder = TextEncoder(tagger)
    for found, why in ((encoder.late, "late fusion"), (encoder.gap, "positions left for images, behind words")):
        if found is not None:
            raise VixmlError(
                "the modules of sentence-transformers cannot express this model",
                where=tagger.folder.folder,
                found=why,
                expected="a language model, a pooled vector",
                hint="--to onnx holds the whole text encoder",
            )
    plain = work / "plain"
    encoder.network.save_pretrained(plain)
    encoder.write_tokenizer(tagger.folder.folder / LANGUAGE, plain)
    first = Transformer(str(plain), max_seq_length=encoder.longest)
    modules = [first, Pooling(encoder.dim, "lasttoken" if encoder.last else "mean")]
    if encoder.centre is not None:
        shift = Dense(encoder.dim, encoder.dim, activation_function=torch.nn.Identity())
        shift.linear.weight.data, shift.linear.bias.data = torch.eye(encoder.dim), -encoder.centre.float()
        modules += [Normalize(), shift]
    whole = SentenceTransformer(modules=[*modules, Normalize()], device="cpu", similarity_fn_name="cosine")
    whole.save_pretrained(str(work), create_model_card=False)
    for path in sorted(plain.iterdir()):
        path.unlink()
    plain.rmdir()
    texts = sample_texts(tagger)
    opened = SentenceTransformer(str(work), device="cpu", local_files_only=True)
    found = opened.encode(texts, batch_size=16, show_progress_bar=False, convert_to_numpy=True)
    expect_vectors(found, tagger.encode(texts), texts, "the export for sentence-transformers")
    return [f"{len(texts)} texts have the model's vectors to 1e-5 (sentence-transformers, opened from this folder)."]
