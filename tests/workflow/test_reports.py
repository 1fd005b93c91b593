"""What leaves the workflow for readers: Snakemake's own report, and the commands that ours prints."""

from __future__ import annotations

import html
import re
import shlex
import shutil
import zipfile
from pathlib import Path

from chromium import started
from tiny_world import Copy

from vixml.files import sha256_file

ROOT = Path(__file__).resolve().parents[2]
# Nothing listens there: whatever asks for the network fails at once.
NO_NETWORK = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}


def run(copy: Copy, *command: str) -> str:
    return copy.run("env", *(f"{name}={value}" for name, value in NO_NETWORK.items()), *command)


def test_snakemake_writes_its_report_without_a_network(finished, tmp_path):
    run(finished, "snakemake", "--report", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    # Captions, rendered; the configuration's name is filled in.
    words = ("in separate columns", "against measured hours of training", "Each number links to its run", ">tiny<")
    assert [word for word in words if word not in page] == []
    # Nothing is loaded from elsewhere.
    assert not re.search(r"""<(?:script|link|img)[^>]+(?:src|href)=["']https?:""", page)
    run(finished, "snakemake", "--report", str(tmp_path / "report.zip"))
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        names = {Path(name).name for name in archive.namelist()}
        assert {"table1.csv", "table3.csv", "figure2.svg", "report.html"} <= names
        ours = next(name for name in archive.namelist() if "data/raw" in name and name.endswith("report.html"))
        assert archive.read(ours) == (finished.root / "results/report.html").read_bytes()


def test_every_figure_and_kind_of_page_has_a_caption():
    captions = {path.stem for path in (ROOT / "docs/captions").glob("*.rst")}
    figures = {path.stem for path in (ROOT / "config/figures").glob("*.yaml")}
    assert captions == figures | {"measured", "report", "tables", "tuning", "workflow"}


def test_snakemakes_page_opens_each_category(finished, tmp_path):
    # With two labels per file, the page of Snakemake 9 makes switches of them and fails at pairs that are not there.
    run(finished, "snakemake", "--report", str(tmp_path / "report.html"))
    faults: list[str] = []
    with started() as browser:
        page = browser.new_context(offline=True).new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        shown = {"Tables": "Table 1: Backbone size, text only", "Figures": "Figure 2: ", "Report": "one page"}
        for category, label in shown.items():
            page.goto((tmp_path / "report.html").as_uri())
            page.get_by_role("link", name=category, exact=True).click()
            page.get_by_text(label).first.wait_for()
    assert faults == []


def commands(copy: Copy) -> dict[str, str]:
    """Return {run: command} as our report prints them."""
    page = (copy.root / "results/report.html").read_text(encoding="utf-8")
    found = re.findall(r'<section popover id="run-picto-([^"]+)".*?<code>(.*?)</code>', page, re.DOTALL)
    return {name: html.unescape(command) for name, command in found}


def test_the_command_beside_a_number_makes_that_score_again(apart):
    run_name = "vixml-minilm-l3--augmented"
    seed = apart.root / "results/runs/picto" / run_name / "seed0"
    command = commands(apart)[run_name]
    assert command.endswith(f"results/runs/picto/{run_name}/seed0/test/score/manifest.json")
    before = sha256_file(seed / "test/score/scores.json")
    shutil.rmtree(seed.parent)
    # As a shell reads it: braces are spelt out there.
    shown = run(apart, "bash", "-c", command)
    assert sha256_file(seed / "test/score/scores.json") == before
    # The model is another run's and stayed; its predictions and their score were made again, and nothing else.
    assert re.search(r"^predict_labels +1$", shown, re.MULTILINE) and re.search(r"^total +2$", shown, re.MULTILINE)


def test_our_report_shows_what_the_stages_really_write(finished):
    page = (finished.root / "results/report.html").read_text(encoding="utf-8")
    titles = ("training loss", "terms of the loss", "validation P@1", "mean cosine", "P@1 from each group of labels")
    assert [title for title in titles if title not in page] == []


def test_every_command_asks_for_files_that_are_there(finished):
    for command in commands(finished).values():
        assert "Nothing to be done" in run(finished, *shlex.split(command), "-n")
