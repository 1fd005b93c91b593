"""Checks before the first job: each passes where all is well, and says what to do where it is not."""

from __future__ import annotations

import importlib.metadata
import shutil
import threading
from collections import namedtuple
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hub_server import serve_hub, turn_away

from vixml import cli
from vixml.check import doctor
from vixml.check import preflight as checks
from vixml.check.preflight import (
    Line,
    before,
    check_memory,
    check_packages,
    clock,
    hub_models,
    preflight,
    readers,
    shared_memory,
    to_write,
    unfinished,
    unmade,
)
from vixml.config.project import Project
from vixml.config.targets import asked_runs
from vixml.config.workflow import Target, WorkflowConfig
from vixml.plan.plan import Plan, make_plan, read_workflow

REPO = Path(__file__).resolve().parents[2]
LF = "LF-AmazonTitles-131K"  # its image embeddings are published
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    """Return the repository's configurations, with results in a folder of this test."""
    monkeypatch.chdir(REPO)
    return Project("config", tmp_path / "results")


paper_yaml = cache(lambda: read_workflow(REPO / "config/paper.yaml"))


def paper(project: Project):
    return paper_yaml().model_copy(update={"results": str(project.results)})


def one_run(project: Project, dataset: str, run: str) -> WorkflowConfig:
    """Return the paper's configuration with one run and nothing beside it."""
    return paper(project).model_copy(update={"targets": [Target(dataset=dataset, runs=[run])], "latencies": []})


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Serve a package index with the files of one package, and no others."""
    (tmp_path / "index/icon-mcp").mkdir(parents=True)
    (tmp_path / "index/icon-mcp/icon_mcp-0.1.0-py3-none-any.whl").touch()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=tmp_path / "index"))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/")
    for name, value in (("PIP_NO_INDEX", "0"), ("NO_PROXY", "127.0.0.1"), ("PIP_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(name, value)
    yield
    server.shutdown()
    server.server_close()


def states(lines) -> dict[str, tuple[str, bool]]:
    return {line.name: (line.state, line.stops) for line in lines}


def test_the_demo_may_start(project, index):
    workflow = read_workflow(None).model_copy(update={"results": str(project.results)})
    found = states(before(workflow, None))
    assert set(found) >= {"packages", "GPU", "main memory", "disk", "hub", "from wheel"}
    assert not any(stops for _, stops in found.values()) and found["from wheel"][0] == "ok"


def test_no_answer_of_any_host_stops_the_papers_runs(project, monkeypatch, capsys):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setattr(checks, "DRIVE", "http://127.0.0.1:9/")
    turn_away(monkeypatch)
    found = states(before(paper(project), None))
    for name in ("hub", "from hub", "from google-drive", "from wheel"):
        assert found[name] == ("fails", True), name


def test_one_line_for_each_package_that_does_not_fit(project, monkeypatch):
    assert states(check_packages([])) == {"packages": ("ok", False)}
    # No checkout: the installed package says what it requires.
    monkeypatch.setattr(doctor, "REPOSITORY", project.results)
    required = ["numpy>=99", "no-such-thing", 'ruff; extra == "dev"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: required)
    (line,) = check_packages([])
    assert line.stops and all(said in line.found for said in ("numpy", "needs >=99", "no-such-thing is missing"))
    fused = [project.run(*key[:2]) for key in unfinished(project, paper(project))]
    advice = list(check_packages(fused))[1]
    assert advice.name == "kernels" and advice.state in ("ok", "fails") and not advice.stops


def test_memory_names_what_does_not_fit():
    needs = {"train/a": 5e9, "train/b": 70e9, "index/b": 90e9}
    assert check_memory("GPU memory", needs, 100e9).state == "ok"
    line = check_memory("GPU memory", needs, 60e9)
    assert line.state == "fails" and line.stops and line.hint
    assert line.found.index("index/b") < line.found.index("train/b") and "train/a" not in line.found


@pytest.mark.parametrize(("free", "state"), [(1e6, "fails"), (1e15, "ok")])
def test_disk_is_compared_with_what_is_still_to_be_written(project, monkeypatch, free, state):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1e15, 0, free))
    turn_away(monkeypatch)
    plan = make_plan(paper(project), checks.HARDWARE["gpu"])
    line = next(iter(checks.check_disk(project, plan, True)))
    assert (line.state, line.stops) == (state, state == "fails")


def planned(project: Project, workflow: WorkflowConfig) -> Plan:
    """Return the plan that the checks of a configuration are made with."""
    runs = readers(project, unfinished(project, workflow), asked_runs(workflow))
    return make_plan(workflow, checks.HARDWARE["gpu"], project.results, runs)


def test_the_disk_of_one_table_is_not_that_of_the_whole_configuration(project, monkeypatch):
    """Table 4 needs 190 GB, and the configuration 1.1 TB."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1e15, 0, 200e9))
    monkeypatch.setattr(checks, "unmade", lambda *_: [])
    table = paper(project).model_copy(update={"only_shown": True, "tables": ["table4"]})
    assert states(before(table, None))["disk"] == ("ok", False)
    # As Snakemake calls it: the same configuration, and the trainings and predictions behind what was asked for.
    trainings, asked = unfinished(project, table), asked_runs(table)
    assert states(preflight(project, paper(project), trainings, asked, gpu=False))["disk"] == ("ok", False)


def write(path: Path, n: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(n)


def test_only_files_of_these_runs_count_as_written(project):
    table = paper(project).model_copy(update={"only_shown": True, "tables": ["table4"]})
    plan = planned(project, table)
    needed, parts, results = to_write(project, plan, True), plan.parts, project.results
    assert needed == plan.total.disk_bytes + plan.total.scratch_bytes
    write(results / "runs/LF-Amazon-131K/text-bert/seed0/model/weights", 10**12)
    write(results / "data/MM-AmazonTitles-300K/embeddings/other/vectors", 10**12)
    assert to_write(project, plan, True) == needed, "files of other runs leave these no room"
    # What is resumed counts, but no more than its own part needs.
    images = results / "data/MM-AmazonTitles-300K/images-fetching/shards"
    write(images, 10**9)
    assert to_write(project, plan, True) == pytest.approx(needed - 10**9)
    write(images, 10**13)
    needed -= parts["images/MM-AmazonTitles-300K"].disk_bytes
    assert to_write(project, plan, True) == pytest.approx(needed)
    # A finished part needs nothing, however much was predicted.
    write(results / "models/distilbert/manifest.json", 1)
    assert to_write(project, plan, True) == pytest.approx(needed - parts["model/distilbert"].disk_bytes)


def test_published_files_that_were_fetched_count_as_written(project):
    plan = planned(project, one_run(project, LF, "vixml-distilbert"))
    needed = to_write(project, plan, True)
    vectors = project.dataset(LF).published_vectors["siglip2"].train.vectors
    write(project.results / "raw" / project.world.sources[vectors].filename, 10**6)
    assert to_write(project, plan, True) == pytest.approx(needed - 10**6) and to_write(project, plan, False) == needed


def test_memory_of_runs_that_only_reuse_a_model(project):
    """Neither the training nor the search is one of a run that the configuration names."""
    dataset, run = "LF-AmazonTitles-1.3M", "text-distilbert--precise"
    workflow = one_run(project, dataset, run)
    assert unfinished(project, workflow) == [(dataset, "text-distilbert", 0)]
    parts = planned(project, workflow).parts
    assert f"predict/{dataset}/{run}/seed0" in parts and f"train/{dataset}/text-distilbert/seed0" in parts
    assert f"predict/{dataset}/text-distilbert/seed0" not in parts, "it is not asked for"
    assert parts[f"train/{dataset}/text-distilbert/seed0"].gpu_memory_bytes > 30e9


def test_runs_that_no_target_names_are_planned_by_themselves(project, monkeypatch):
    """`snakemake FILE` may ask for any seed, and inference may be chosen on runs that are not scored."""
    assert readers(project, [(LF, "text-distilbert", 7)], [(LF, "text-distilbert", 0)]) == [(LF, "text-distilbert", 7)]
    run = project.run(LF, "text-distilbert")
    inference = run.inference.model_copy(update={"chosen_on": ["vixml-distilbert", "text-bert"]})
    monkeypatch.setitem(project.runs, (LF, "text-distilbert"), run.model_copy(update={"inference": inference}))
    trainings = unfinished(project, one_run(project, LF, "text-distilbert"))
    assert [run for _, run, _ in trainings] == ["text-distilbert", "vixml-distilbert", "text-bert"]
    for some in (trainings, trainings[1:2]):
        assert readers(project, some, [(LF, "text-distilbert", 0)]) == [(LF, "text-distilbert", 0)]


def stages(project: Project, run: str, published: bool) -> dict[str, list[str]]:
    return {job.stage.name: job.sources() for job in unmade(project, [(LF, run, 0)], published)}


@pytest.mark.parametrize("published", [True, False])
def test_what_is_fetched_for_image_embeddings(project, published):
    """Published ones need no vision model, and pooled ones none of the published files."""
    assert set(stages(project, "text-distilbert", published)) == {"build-corpus", "prepare-model"}
    found = stages(project, "vixml-distilbert", published)
    assert ("import-vectors" in found, "prepare-vision" in found, "embed-images" in found) == (
        published, not published, not published,
    )  # fmt: skip
    named = set(project.dataset(LF).published_vectors["siglip2"].sources)
    assert named & {name for names in found.values() for name in names} == (named if published else set())


def test_images_that_only_inference_reads_are_fetched(project, monkeypatch):
    run = project.run(LF, "text-distilbert")
    weighted = run.model_copy(update={"inference": run.inference.model_copy(update={"image_weight": 0.5})})
    monkeypatch.setitem(project.runs, (LF, "text-distilbert"), weighted)
    assert weighted.needs_embeddings and not weighted.uses_images
    assert "import-vectors" in stages(project, "text-distilbert", True)


def test_a_machine_without_a_network_on_which_all_is_fetched(project, monkeypatch):
    turn_away(monkeypatch)
    workflow = one_run(project, LF, "vixml-distilbert")
    runs = asked_runs(workflow)
    for job in unmade(project, runs, True):
        write(job.out / "manifest.json", 1)
    assert unmade(project, runs, True) == [] and [job.stage.name for job in unmade(project, runs, False)] == []
    found = states(before(workflow, None))
    assert found["hub"] == found["network"] == ("not checked", False)


def test_little_shared_memory_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "SHARED", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64e6, 0, 64e6))
    (line,) = shared_memory(wanted=True)
    assert line.state == "fails" and not line.stops and "--shm-size" in line.hint
    assert next(iter(shared_memory(wanted=False))).state == "not checked"


def llama_run(project: Project) -> tuple[str, str, int]:
    """Return a run with a model whose terms are to be accepted, and without images."""
    runs = {key: project.run(*key[:2]) for key in unfinished(project, paper(project))}
    return next(key for key, run in runs.items() if run.encoder.model == "llama-3.2-3b" and not run.uses_images)


@pytest.mark.parametrize(
    ("status", "state", "advice"), [(200, "ok", ""), (403, "fails", "accept the terms"), (401, "fails", "HF_TOKEN")]
)
def test_models_of_the_hub(project, monkeypatch, tmp_path, status, state, advice):
    (tmp_path / "hub").mkdir()
    llama = unmade(project, [llama_run(project)], True)
    with serve_hub(monkeypatch, "meta-llama/Llama-3.2-3B-Instruct", tmp_path / "hub") as hub:
        hub.status = status
        (line,) = hub_models(project, llama)
    assert line.state == state and advice in line.hint and "llama-3.2-3b" in line.found


def test_a_model_that_is_placed_by_hand_is_not_asked_for(project):
    (project.results / "raw/hub/meta-llama--Llama-3.2-3B-Instruct").mkdir(parents=True)
    llama = unmade(project, [llama_run(project)], True)
    (line,) = hub_models(project, llama)
    assert line.state == "not checked"


def test_a_clock_that_is_wrong():
    now = datetime.now(UTC)
    assert clock(now - timedelta(seconds=60)).state == "ok"
    line = clock(now - timedelta(hours=2))
    assert line.stops and line.found == "120 minutes ahead of a host's"


def test_a_failed_check_ends_the_command(project, monkeypatch, capsys):
    monkeypatch.setattr(checks, "before", lambda *_: iter([Line("disk", "fails", "full", "make room", stops=True)]))
    assert cli.main(["preflight"]) == 2
    shown = capsys.readouterr().err
    assert "what now: make room" in shown and "a check before the first job failed" in shown


@pytest.mark.parametrize("listed", [True, False])
def test_the_device_and_partition_of_a_profile(project, monkeypatch, tmp_path, listed):
    forms = ("config: {device: cuda}", "default-resources: [slurm_partition=big, mem_mb=4000]")
    (tmp_path / "config.yaml").write_text(forms[listed] + "\n" + "executor: slurm\n" * listed, encoding="utf-8")
    seen = {}
    monkeypatch.setattr(checks, "require_slurm", lambda partitions: seen.update(partitions=partitions))
    monkeypatch.setattr(checks, "preflight", lambda *_, **options: seen.update(options) or iter(()))
    list(before(paper(project), tmp_path))
    assert seen == ({"partitions": ["big"], "gpu": False, "here": False} if listed else {"gpu": True, "here": True})


def test_finished_trainings_need_nothing(project):
    workflow = paper(project)
    (dataset, run, seed), *others = unfinished(project, workflow)
    write(project.results / f"runs/{dataset}/{run}/seed{seed}/model/manifest.json", 1)
    assert unfinished(project, workflow) == others
