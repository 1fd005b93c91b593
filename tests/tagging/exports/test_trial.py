import sys, warnings
import numpy as np, pytest
from vixml.tagging.model_folder import ModelFolder
from vixml.tagging.exports import text_encoder, onnx, sentence_transformers as st
RUNS=["text","images","late","decoder","adapters","frozen","knn"]
@pytest.mark.parametrize("run", RUNS)
def test_st(packed, tmp_path, run):
    tagger = text_encoder.exact_tagger(ModelFolder.open(packed(run)))
    print(st.write(tagger, tmp_path)); print((tmp_path/"modules.json").read_text()); print(sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")))
    print((tmp_path/"sentence_bert_config.json").read_text(), (tmp_path/"config.json").read_text())
@pytest.mark.parametrize("run", RUNS)
def test_onnx(packed, tmp_path, run):
    tagger = text_encoder.exact_tagger(ModelFolder.open(packed(run)))
    print(onnx.write(tagger, tmp_path)); print(sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")))
