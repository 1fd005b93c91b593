"""LaTeX tables: the right number of fields, nothing that LaTeX would read as a command, the same numbers as Markdown."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from report_page import EVERY_TABLE, build
from result_files import METRICS, PICTO, REPO, register_real, write_picto, write_real, write_result

from vixml.report.write_tables import delta, escape, make_tables, to_latex

EVERY_METRIC = METRICS | {"R@10": 60.0}
COMMANDS = {
    "begin", "end", "toprule", "midrule", "bottomrule", "cmidrule", "multicolumn", "textit", "pm", "Delta",
    "textless", "textgreater", "textbar", "textbackslash", "textasciitilde", "textasciicircum",
}  # fmt: skip


def written(config_dir, names, out, folders=()):
    """Return each table as `vixml make-tables` writes it, of scores and of facts."""
    make_tables(folders, config_dir, names, out)
    return [(out / f"{name}.tex").read_text(encoding="utf-8") for name in names]


def fields(line):
    """Return how many columns a row fills."""
    spans = re.findall(r"\\multicolumn\{(\d+)\}", line)
    return len(re.findall(r"(?<!\\)&", line)) + 1 + sum(int(span) - 1 for span in spans)


@pytest.fixture(scope="module")
def without_results(tmp_path_factory):
    """Every table as it is written where nothing was run."""
    texts = written(REPO / "config", EVERY_TABLE, tmp_path_factory.mktemp("tables") / "t")
    return dict(zip(EVERY_TABLE, texts, strict=True))


@pytest.mark.parametrize("name", EVERY_TABLE)
def test_every_row_fills_its_columns_and_every_brace_is_closed(name, without_results):
    text = without_results[name]
    body = [line for line in text.splitlines() if not line.startswith("%")]
    width = None
    for line in body:
        if opened := re.match(r"\\begin\{tabular\}\{(\w+)\}", line):
            width = len(opened[1])
        elif line.endswith(r"\\"):
            assert fields(line) == width, line
        plain = re.sub(r"\\[\\&%$#_{}]", "", line)
        assert plain.count("{") == plain.count("}"), line
        assert set(re.findall(r"\\([A-Za-z]+)", line)) <= COMMANDS, line
        assert not re.search(r"[#%^~<>|±–Δ]", plain), line
        assert plain.count("$") % 2 == 0 and "_" not in plain, line
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\bottomrule") > 0


def test_values_and_differences_are_those_of_the_table(config_dir, results):
    register_real(config_dir)
    table = build("table1", config_dir, write_picto(results) + write_real(results, shift=2.0))
    text = to_latex(table)
    line = next(line for line in text.splitlines() if line.startswith("MiniLM-L3 &"))
    assert "41.72 & 43.72 $\\pm$ 0.00 (3) & +2.00 &" in line
    row = next(line for line in table.sections[0].rows if line.label == "MiniLM-L3")
    assert [delta(cell) for cell in row.in_order(table.columns)] == ["+2.00"] * 4
    assert "not run" in text and "--" in text


def test_special_characters_of_latex_are_escaped():
    assert escape(r"50 % of {a_b} & #1 $x$ \cmd ^ ~ <|eos|>") == (
        r"50 \% of \{a\_b\} \& \#1 \$x\$ \textbackslash{}cmd \textasciicircum{} \textasciitilde{} "
        r"\textless{}\textbar{}eos\textbar{}\textgreater{}"
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (Debian: texlive-latex-recommended)")
def test_it_compiles(tmp_path):
    folders = [write_result(tmp_path / "results", "picto", run, 0, EVERY_METRIC) for run in PICTO]
    body = "\n\n".join(written(REPO / "config", EVERY_TABLE, tmp_path / "t", folders))
    document = "\\documentclass[a1paper]{article}\\usepackage{booktabs}\\begin{document}\n" + body + "\\end{document}\n"
    (tmp_path / "all.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    # LaTeX prints a box in place of a sign that its fonts lack, and continues.
    assert "Missing character" not in (tmp_path / "all.log").read_text(encoding="latin-1")
