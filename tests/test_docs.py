"""Pages agree with the repository: links lead somewhere, modules and files exist, numbers are those of the registry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from vixml import __version__
from vixml.config.load import load_runs, load_workflow, load_world, read_yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md", ROOT / "config/reported/README.md"]
)
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    # Files of this repository, named from its root, in running text as well as in code.
    named = re.findall(r"(?<![\w/.-])((?:src|rules|config|docs|tests|benchmarks|envs|profiles)/[\w./-]*\w)", text)
    # Written by a program when somebody runs it.
    made = ("benchmarks/results", "docs/captions")
    missing += [name for name in named if not (ROOT / name).exists() and not name.startswith(made)]
    assert not missing


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_sections_lead_to_headings(page):
    for name, anchor in re.findall(r"\]\(([^)\s:]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
        assert anchor in anchors(page.parent / name if name else page)


def test_pages_that_the_code_names_exist():
    code = "".join(path.read_text("utf-8") for path in ROOT.glob("src/**/*.py"))
    named = set(re.findall(r"docs/[\w-]+\.md", code))
    assert named and not {name for name in named if not (ROOT / name).exists()}


def test_a_class_has_a_name_of_its_own():
    names = re.findall(r"^class (\w+)", "\n".join(path.read_text() for path in ROOT.glob("src/**/*.py")), re.MULTILINE)
    assert len(names) > 100 and not {name for name in names if names.count(name) > 1}


def test_docstrings_begin_with_a_verb_or_a_noun():
    pattern = re.compile(r'^ *r?"""\s*((?:How|What|When|Where|Whether|Which|Who|Why)\b.*)', re.MULTILINE)
    files = [*ROOT.glob("src/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
    assert not [(path, line) for path in files for line in pattern.findall(path.read_text(encoding="utf-8"))]
    assert pattern.search('def f():\n    """What it does."""')


def test_the_page_on_design_names_every_package_and_ground_module_once_and_no_other():
    named = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/design.md").read_text(encoding="utf-8"), re.MULTILINE)
    source = ROOT / "src/vixml"
    packages = [path.parent.name for path in source.glob("*/__init__.py")]
    ground = [path.stem for path in source.glob("*.py") if not path.stem.startswith("__")]
    assert sorted(named) == sorted([*packages, *ground])


def test_the_first_page_counts_as_the_registry_does():
    world = load_world(ROOT / "config")
    picto = world.datasets["picto"]
    assert f"{picto.expect.n_train + picto.expect.n_test:,} pictograms" in README
    # What the demo fetches: the models of its runs, not those of the larger configurations.
    demo = load_workflow(read_yaml(ROOT / "config/config.yaml") | {"config_dir": str(ROOT / "config")})
    runs = load_runs(ROOT / "config")
    chosen = [runs[target.dataset, run] for target in demo.targets for run in target.runs]
    models = [world.text_models[run.encoder.model] for run in chosen if run.needs_encoder]
    models += [world.vision_models[run.images.vision] for run in chosen if run.needs_embeddings]
    used = {*picto.sources, *(m.weights for m in models), *(getattr(m, "tokenizer", None) for m in models)} - {None}
    megabytes = round(sum(world.sources[name].bytes for name in used) / 1e6)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"{megabytes} MB" in README and f"{megabytes} MB" in makefile
    demo = load_workflow(read_yaml(ROOT / "config/config.yaml"))
    words = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    assert f"{words[sum(len(target.runs) * len(target.seeds) for target in demo.targets)]} runs" in makefile


def test_each_deviation_is_written_down_and_cited_where_it_happens():
    known = set(re.findall(r"^\| D(\d+) \|", (ROOT / "docs/deviations.md").read_text(encoding="utf-8"), re.MULTILINE))
    cited = set()
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "config").glob("[pr][ru]*s/*.yaml")]:
        for first, last in re.findall(r"\bD(\d+)(?:-D?(\d+))?\b", path.read_text(encoding="utf-8")):
            cited |= {str(number) for number in range(int(first), int(last or first) + 1)}
    assert cited == known


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = read_yaml(ROOT / "CITATION.cff")
    assert project["version"] == citation["version"] == __version__
    assert project["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
