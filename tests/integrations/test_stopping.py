"""A run that stops before its end says why, what is kept, and by its exit code whether to go on."""

import os
import signal
import threading
import time

import pytest

pytest.importorskip("typer", reason="the command needs typer")

from fmicl_cli.console import resumable
from fmicl_recipes.stopping import (
    NonFiniteLossError,
    NotSaved,
    Preempted,
    ProcessLost,
    RunStopped,
    sigterm,
)


def test_sigterm_is_noted_within_the_block_and_ends_the_process_after_it():
    before = signal.getsignal(signal.SIGTERM)
    with sigterm() as came:
        assert not came()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert came()
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_of_the_main_thread_nothing_changes():
    told = []

    def work():
        with sigterm() as came:
            told.append(came())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == [False]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [(Preempted.after(7), 75, "SIGTERM came, and the checkpoint of step 7 is written."),
     (ProcessLost.because("connection closed"), 75, "It said: connection closed"),
     (NotSaved.because(OSError(28, "No space left on device"), 9), 1, "No space left on device.")],
    ids=["preempted", "lost", "disk full"],
)  # fmt: skip
def test_the_command_says_how_to_go_on(tmp_path, capsys, error, code, words):
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(SystemExit) as left, resumable(tmp_path, "fmicl train x --resume"):
        raise error
    told = capsys.readouterr().err
    assert left.value.code == code
    assert words in told
    assert "go on with: fmicl train x --resume" in told


def test_a_run_that_diverged_would_diverge_again(tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(NonFiniteLossError), resumable(tmp_path, "fmicl train x --resume"):
        raise NonFiniteLossError.weights(3)
    assert NonFiniteLossError.exit_code == RunStopped.exit_code == 1
