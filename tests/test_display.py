"""The display of a running workflow: events of Snakemake in, a few lines out."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from vixml.display import FAILED, VARIABLE, WARNED, Display, Interruption, display_jobs, last_lines, wanted
from vixml.progress import warn


def event(message: str | None = None, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("snakemake.logging", level, "", 0, message, (), None)
    vars(record).update(fields)
    return record


@pytest.fixture
def display():
    """A display of four jobs, of which the second takes most of the time; it draws into memory."""
    made = Display(lambda: {1: 1.0, 2: 7.0, 3: 1.0, 4: 1.0}, Console(file=io.StringIO(), width=100))
    made.emit(event(event="run_info", stats={}))
    return made


def drawn(display: Display) -> list[str]:
    with display.console.capture() as captured:
        display.console.print(display.draw())
    return [line.rstrip() for line in captured.get().splitlines()]


def printed(display: Display) -> str:
    return display.console.file.getvalue()


def begin(display: Display, number: int, what: str, log: str = "") -> None:
    display.emit(
        event(event="job_info", jobid=number, rule_msg=what, rule_name="train_model", log=[log] if log else [])
    )


def test_jobs_begin_progress_and_end(display, tmp_path):
    log = tmp_path / "log"
    log.write_text("loading\n\x1b[2Ktraining: 100/400, loss 0.5, about 12 s left\n")
    begin(display, 1, "Fetch a file")
    begin(display, 2, "Train a run", str(log))
    head, first, second = drawn(display)
    assert "0 of 4 jobs" in head and "Fetch a file" in first
    assert "Train a run" in second and "100/400, loss 0.5" in second
    display.emit(event(event="job_finished", job_id=1))
    head, only = drawn(display)
    assert "1 of 4 jobs" in head and "Train a run" in only and printed(display) == ""


def test_a_job_may_end_while_the_lines_are_drawn(display):
    class Weights(dict):
        """Numbers, of which reading one takes until another job has ended."""

        def get(self, number, default=None):
            display.emit(event(event="job_finished", job_id=number + 1))
            return super().get(number, default)

    display.emit(event(event="job_finished", job_id=1))
    display.weights = Weights(display.weights)
    assert "of 4 jobs" in drawn(display)[0]


def test_the_time_left_follows_from_what_jobs_take(display, tmp_path):
    display.started -= 100
    begin(display, 1, "Fetch a file")
    display.emit(event(event="job_finished", job_id=1))
    assert "about 15 min left" in drawn(display)[0], "a tenth took 100 s, so nine tenths take 900 s"
    log = tmp_path / "log"
    log.write_text("training: 400/700\n")
    begin(display, 2, "Train a run", str(log))
    assert "about 1.7 min left" in drawn(display)[0], "half is done"


def test_a_failed_job_is_shown_in_full(display, tmp_path):
    log = tmp_path / "log"
    log.write_text("\n".join(f"line {n}" for n in range(100)) + "\nerror: no such run\n  what now: name another\n")
    begin(display, 2, "Train a run", str(log))
    display.emit(event(event="job_error", jobid=2, rule_name="train_model"))
    text = printed(display)
    assert "Failed: Train a run" in text and "error: no such run\n  what now: name another" in text and str(log) in text
    assert text.count("line ") == FAILED - 2
    assert len(drawn(display)) == 1


WARNINGS = """\
training: 1/9
WARNING: a label looks
  like a list
training: 2/9\rWARNING a seed 0: epoch 1: the run has collapsed
done
  in a second
"""


def test_the_warnings_of_a_job_are_printed_when_it_ends(display, tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text(WARNINGS)
    begin(display, 2, "Train a run", str(log))
    assert printed(display) == ""
    display.emit(event(event="job_finished", job_id=2))
    assert printed(display) == (
        "Train a run:\nWARNING: a label looks\n  like a list\nWARNING a seed 0: epoch 1: the run has collapsed\n"
        f"log: {log}\n"
    )
    warn("first\nsecond")
    assert capsys.readouterr().err == "WARNING: first\n  second\n"


def test_many_warnings_of_a_job_are_counted(display, tmp_path):
    (tmp_path / "log").write_text("WARNING a seed 0: collapsed\n" * (WARNED + 7))
    begin(display, 2, "Train a run", str(tmp_path / "log"))
    display.emit(event(event="job_finished", job_id=2))
    assert printed(display).count("collapsed") == WARNED and "... and 7 more lines\n" in printed(display)


def test_a_failed_job_repeats_the_warnings_before_its_last_lines(display, tmp_path):
    (tmp_path / "log").write_text("WARNING: early\n" + "line\n" * FAILED + "WARNING: late\n")
    begin(display, 2, "Train a run", str(tmp_path / "log"))
    display.emit(event(event="job_error", jobid=2, rule_name="train_model"))
    assert printed(display).count("WARNING: early") == 1 == printed(display).count("WARNING: late")


def test_an_interrupted_job_repeats_its_warnings(tmp_path, capsys):
    (tmp_path / "log").write_text("WARNING: not resumed\n")
    with pytest.raises(KeyboardInterrupt), display_jobs(dict, {}) as display:
        begin(display, 2, "Train a run", str(tmp_path / "log"))
        raise KeyboardInterrupt
    assert "Train a run:\nWARNING: not resumed\n" in capsys.readouterr().err


def test_warnings_and_errors_are_printed_and_nothing_else(display):
    display.emit(event("Select jobs to execute..."))
    display.emit(event(None, logging.ERROR, event="group_error"))
    display.emit(event("a profile is old", logging.WARNING))
    display.emit(event("no rule makes [x]", event="error"))
    assert printed(display) == "a profile is old\nno rule makes [x]\n"


def test_snakemakes_own_lines_return_afterwards():
    logger, environment = logging.getLogger("snakemake.logging"), {}
    usual = logging.StreamHandler(io.StringIO())
    usual.name = "DefaultStreamHandler"
    logger.addHandler(usual)
    try:
        with pytest.raises(KeyboardInterrupt), display_jobs(dict, environment):
            assert environment == {VARIABLE: "1"} and usual not in logger.handlers
            raise KeyboardInterrupt
        assert environment == {} and usual in logger.handlers
        assert not any(isinstance(handler, Display) for handler in logger.handlers)
    finally:
        logger.removeHandler(usual)


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"CI": "true"}, {"TERM": "dumb"}])
def test_plain_lines_where_they_are_asked_for(plain, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert wanted({"TERM": "xterm"}) and not wanted({"TERM": "xterm"} | plain)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert not wanted({"TERM": "xterm"})


def test_an_interruption_is_told_from_a_failure():
    seen = Interruption()
    seen.emit(event("Exiting because a job execution failed."))
    assert not seen.seen
    seen.emit(event("Terminating processes on user request, this might take some time."))
    assert seen.seen


def test_a_log_may_be_missing_or_not_text(tmp_path):
    assert last_lines(tmp_path / "none", 1) == [] == last_lines("", 1)
    (tmp_path / "log").write_bytes(b"\xff\xfe 10%\r 20%\r")
    assert last_lines(tmp_path / "log", 1) == [" 20%"]
