"""Checks before the first job: each passes where all is well, and says what to do where it is not."""

from __future__ import annotations

import importlib.metadata
import shutil
import threading
from collections import namedtuple
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hub_server import serve_hub, turn_away

from vixml import cli
from vixml.check import doctor
from vixml.check import preflight as checks
from vixml.check.preflight import Line, before, clock, hub_models, memory, packages, shared_memory, unfinished
from vixml.config.project import Project
from vixml.plan.plan import read_workflow

REPO = Path(__file__).resolve().parents[2]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    """Return the repository's configurations, with results in a folder of this test."""
    monkeypatch.chdir(REPO)
    return Project("config", tmp_path / "results")


def paper(project: Project):
    return read_workflow(REPO / "config/paper.yaml").model_copy(update={"results": str(project.results)})


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Serve a package index with the files of the two packages that the paper's text models are in, and no others."""
    for name in ("icon-mcp",):
        (tmp_path / "index" / name).mkdir(parents=True)
        (tmp_path / "index" / name / "icon_mcp-0.1.0-py3-none-any.whl").touch()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=tmp_path / "index"))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    for name, value in {
        "PIP_INDEX_URL": f"http://127.0.0.1:{server.server_port}/",
        "PIP_NO_INDEX": "0",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
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
    assert states(packages([])) == {"packages": ("ok", False)}
    monkeypatch.setattr(
        doctor, "REPOSITORY", project.results
    )  # no checkout: the installed package says what it requires
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda _: ["numpy>=99", "no-such-thing", 'ruff; extra == "dev"']
    )
    (line,) = packages([])
    assert (
        line.stops and "numpy" in line.found and "needs >=99" in line.found and "no-such-thing is missing" in line.found
    )
    fused = [job.run for job in unfinished(project, paper(project))]
    advice = list(packages(fused))[1]
    assert advice.name == "kernels" and advice.state in ("ok", "fails") and not advice.stops


def test_memory_names_what_does_not_fit():
    needs = {"train/a": 5e9, "train/b": 70e9, "index/b": 90e9}
    assert memory("GPU memory", needs, 100e9).state == "ok"
    line = memory("GPU memory", needs, 60e9)
    assert line.state == "fails" and line.stops and line.hint
    assert line.found.index("index/b") < line.found.index("train/b") and "train/a" not in line.found


@pytest.mark.parametrize(("free", "state"), [(1e6, "fails"), (1e15, "ok")])
def test_disk_is_compared_with_what_is_still_to_be_written(project, monkeypatch, free, state):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1e15, 0, free))
    turn_away(monkeypatch)
    plan = checks.make_plan(paper(project), checks.HARDWARE["gpu"])
    line = next(iter(checks.disk(plan, project.results)))
    assert (line.state, line.stops) == (state, state == "fails")


def test_little_shared_memory_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "SHARED", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64e6, 0, 64e6))
    (line,) = shared_memory(wanted=True)
    assert line.state == "fails" and not line.stops and "--shm-size" in line.hint
    assert next(iter(shared_memory(wanted=False))).state == "not checked"


@pytest.mark.parametrize(
    ("status", "state", "advice"), [(200, "ok", ""), (403, "fails", "accept the terms"), (401, "fails", "HF_TOKEN")]
)
def test_models_of_the_hub(project, monkeypatch, tmp_path, status, state, advice):
    (tmp_path / "hub").mkdir()
    llama = [job.run for job in unfinished(project, paper(project)) if job.run.encoder.model == "llama-3.2-3b"]
    with serve_hub(monkeypatch, "meta-llama/Llama-3.2-3B-Instruct", tmp_path / "hub") as hub:
        hub.status = status
        (line,) = hub_models(project, [run for run in llama if not run.uses_images][:1])
    assert line.state == state and advice in line.hint and "llama-3.2-3b" in line.found


def test_a_model_that_is_placed_by_hand_is_not_asked_for(project):
    (project.results / "raw/hub/meta-llama--Llama-3.2-3B-Instruct").mkdir(parents=True)
    llama = [job.run for job in unfinished(project, paper(project)) if job.run.encoder.model == "llama-3.2-3b"]
    (line,) = hub_models(project, [run for run in llama if not run.uses_images][:1])
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
    jobs = unfinished(project, workflow)
    jobs[0].out.mkdir(parents=True)
    (jobs[0].out / "manifest.json").touch()
    assert len(unfinished(project, workflow)) == len(jobs) - 1
