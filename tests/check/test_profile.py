"""Profiles of Snakemake: every form that it takes, and what ``--config`` on its command line replaces."""

from __future__ import annotations

import pytest
from result_files import REPO

from vixml.check.profile import pairs, profile_settings, replaced_config
from vixml.errors import VixmlError

FORMS = {
    "list": 'config: [device=cuda, "threads={train: 4}"]\ndefault-resources: [slurm_partition=main, mem_mb=4000]\n',
    "mapping": "config: {device: cuda, threads: {train: 4}}\ndefault-resources: {slurm_partition: main, mem_mb: 4000}\n",
    "string": "config: device=cuda\ndefault-resources: slurm_partition=main\n",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["config.yaml", "profile.v9+.yaml"])
def test_every_form_that_snakemake_takes(tmp_path, form, name):
    (tmp_path / name).write_text(FORMS[form], encoding="utf-8")
    settings = profile_settings(tmp_path)
    assert pairs(settings["config"])["device"] == "cuda"
    assert pairs(settings["default-resources"])["slurm_partition"] == "main"


@pytest.mark.parametrize("text", ["config: [", "- no\n- mapping\n"])
def test_a_profile_that_cannot_be_read_is_one_message(tmp_path, text):
    with pytest.raises(VixmlError, match="does not exist"):
        profile_settings(tmp_path)
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(VixmlError, match="cannot be read"):
        profile_settings(tmp_path)


def test_what_the_command_line_replaces(monkeypatch, tmp_path):
    monkeypatch.chdir(REPO)
    slurm = ["--profile", "profiles/slurm", "-n", "paper_tables"]
    assert replaced_config([*slurm, "--config", "only_shown=True"]) == {
        "device": "cuda",
        "threads": "{train: 4, images: 8, search: 4}",
    }
    assert list(replaced_config([*slurm, "-C", "device=cpu", "name=x"])) == ["threads"]
    assert replaced_config(slurm) == replaced_config(["--config", "name=x", "--profile", "none"]) == {}
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "profiles/gpu")
    assert replaced_config(["--config", "name=x"]) == {"device": "cuda"}
    monkeypatch.delenv("SNAKEMAKE_PROFILE")
    (tmp_path / "config.yaml").write_text("config: {device: cpu}", encoding="utf-8")
    assert replaced_config(["--config", "name=x", "--workflow-profile", str(tmp_path)]) == {"device": "cpu"}
