"""What `fit --resume` goes on with, and what it does where there is something wrong with it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import time
import warnings
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from acnet_pl.callbacks import RunCheckpoint
from acnet_pl.callbacks.newest_checkpoint import newest_checkpoint
from acnet_pl.config.files import run_order
from acnet_pl.config.run_folder import Claim, check_entries, make_run_folder, separate_files
from acnet_pl.loggers import MetricsCSV

STEP = "acnet_pl.modules:ImageClassifier.training_step"
FIRST = ["at", STEP, 1]
HALFWAY = ["at", STEP, 20]
TRUNCATED, FLIPPED, FOREIGN, MALICIOUS = "truncated", "flipped", "foreign", "malicious"


def run_of(folder: Path) -> Path:
    (run,) = (folder / "runs" / "mortal").iterdir()
    return run


@pytest.fixture(scope="module")
def halfway(mortal: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The working folder of a run that was killed in its second epoch, and a copy of it as it was then."""
    folder = tmp_path_factory.mktemp("halfway")
    mortal.run(folder / "work", death=HALFWAY)
    shutil.copytree(folder / "work", folder / "kept")
    return folder / "work", folder / "kept"


@pytest.fixture
def stopped(halfway: tuple[Path, Path]) -> Path:
    """The working folder of a run that was killed in its second epoch, with checkpoints of steps 15 and 11 + 5."""
    folder, kept = halfway
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    return folder


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == TRUNCATED:
        path.write_bytes(content[: len(content) // 2])
    elif how == FLIPPED:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif how == FOREIGN:
        torch.save({"state_dict": {"weight": torch.zeros(3)}}, path)
    else:
        torch.save({**torch.load(path, weights_only=True), "more": Malicious(path.with_name("proof"))}, path)


class Malicious:
    """A pickle of this makes a file when it is loaded in the ordinary way."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


long = pytest.mark.faults


@pytest.mark.parametrize(
    "how", [TRUNCATED, pytest.param(FLIPPED, marks=long), pytest.param(FOREIGN, marks=long), MALICIOUS]
)
def test_the_checkpoint_before_a_damaged_one_is_taken(how: str, mortal: Any, undisturbed: Any, stopped: Path) -> None:
    run = run_of(stopped)
    spoil(run / "checkpoints" / "last.ckpt", how)
    output, _ = mortal.run(stopped)
    assert "last.ckpt" in output
    assert "Passing over a checkpoint" in output
    assert "from previous.ckpt" in output
    (run / "checkpoints" / "last.ckpt.damaged").unlink()
    expected, _ = undisturbed
    type(expected)(run).assert_same_as(expected)


def test_without_any_whole_checkpoint_it_starts_over(mortal: Any, undisturbed: Any, stopped: Path) -> None:
    run = run_of(stopped)
    for name in ("last.ckpt", "previous.ckpt"):
        spoil(run / "checkpoints" / name, TRUNCATED)
    output, _ = mortal.run(stopped)
    assert "from the beginning" in output
    for path in (run / "checkpoints").glob("*.damaged"):
        path.unlink()
    expected, _ = undisturbed
    type(expected)(run).assert_same_as(expected)


def test_what_is_gone_on_with(mortal: Any, undisturbed: Any, stopped: Path) -> None:
    run = run_of(stopped)
    # Another configuration is another run.
    output, _ = mortal.run(stopped, "--trainer.max_epochs", "1", "--test_after_fit", "false")
    runs = set((stopped / "runs" / "mortal").iterdir())
    assert len(runs) == 2
    assert "No unfinished run of this name and configuration in runs; starting a new one\n" in output
    # The first is gone on with by its folder, with no other option but for the package that its network is of.
    output, _ = mortal.run(stopped, command=["fit", "--resume", str(run)], code=1)
    assert "add --trust dropnet" in output
    mortal.run(stopped, command=["fit", "--resume", str(run), "--trust", "dropnet"])
    assert set((stopped / "runs" / "mortal").iterdir()) == runs
    expected, _ = undisturbed
    type(expected)(run).assert_same_as(expected)
    # Both have ended now: the same command makes a new one, and the folder of one that has ended is refused.
    mortal.run(stopped, death=FIRST)
    assert len(list((stopped / "runs" / "mortal").iterdir())) == 3
    output, _ = mortal.run(stopped, command=["fit", "--resume", str(run), "--trust", "dropnet"], code=1)
    assert "has ended" in output


def test_a_run_that_has_ended_can_be_trained_further_in_a_new_one(
    mortal: Any, undisturbed: Any, tmp_path: Path
) -> None:
    expected, _ = undisturbed
    longer = ["--ckpt_path", str(expected.folder / "checkpoints" / "last.ckpt"), "--trainer.max_epochs", "4"]
    mortal.run(tmp_path, *longer)
    further = type(expected)(run_of(tmp_path))
    assert further.checkpoint["global_step"] == 44
    losses = [int(row["step"]) for row in further.metrics if row["train/loss"]]
    assert losses == [33, 35, 37, 39, 41, 43]


def test_processes_that_do_not_agree_are_stopped() -> None:
    class Strategy:
        checkpoint_io = None

        def broadcast(self, thing: Any) -> Any:
            return "runs/a/checkpoints/last.ckpt" if thing is None else thing

        def reduce_boolean_decision(self, decision: bool) -> bool:
            return decision

    trainer: Any = SimpleNamespace(strategy=Strategy(), default_root_dir="runs/a", fast_dev_run=False, global_rank=1)
    with pytest.raises(ValueError, match=r"process 1 was to go on from None and process 0 from runs/a"):
        RunCheckpoint(enabled=False).setup(trainer, Any, "fit")  # type: ignore[arg-type]


def test_a_living_run_is_left_alone(mortal: Any, tmp_path: Path) -> None:
    mortal.run(tmp_path, death=FIRST)
    run = run_of(tmp_path)
    with (run / "UNFINISHED").open("r+") as marker:
        fcntl.lockf(marker, fcntl.LOCK_EX)
        mortal.run(tmp_path, death=FIRST)
    assert len(list((tmp_path / "runs" / "mortal").iterdir())) == 2


def test_what_a_killed_run_has_started_does_not_hold_its_folder(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        run = os.fork()
        if run == 0:
            held = Claim.of(tmp_path) is not None
            if os.fork() == 0:  # a worker that loads data, say
                os.write(writer, str(os.getpid()).encode())
                time.sleep(100)
            os._exit(0 if held else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]) == 0
    worker = int(os.read(reader, 20))
    try:
        assert Claim.of(tmp_path) is not None
        os.kill(worker, 0)  # is alive
    finally:
        os.kill(worker, signal.SIGKILL)


def test_the_newest_run_is_the_one_made_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        times = iter([10, 10, 12, 3, 3, 11, 13])  # set back after the third

        @classmethod
        def now(cls, tz: Any = None) -> Clock:
            return cls(2026, 1, 1, 0, 0, next(cls.times))

    monkeypatch.setattr("acnet_pl.config.run_folder.datetime", Clock)
    monkeypatch.setenv("ACNET_PL_RUN_FOLDER", "")
    suffixes = ["", "", "", "-test", "", "", ""]
    made = [make_run_folder(str(tmp_path), "run", suffix) for suffix in suffixes]
    assert sorted(tmp_path.glob("run/*"), key=run_order) == made
    assert made[4].name == "2026-01-01T00-00-12-3"
    assert made[6].name == "2026-01-01T00-00-13"


def test_a_file_system_without_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    claim = Claim.of(tmp_path)
    assert claim is not None
    claim.finish()
    assert not list(tmp_path.iterdir())


def test_sigterm_writes_a_checkpoint_and_exits_with_143(mortal: Any, undisturbed: Any, tmp_path: Path) -> None:
    output, _ = mortal.run(tmp_path, death=["told", STEP, 18])
    assert "Stopped by SIGTERM" in output
    assert "Traceback" not in output
    run = run_of(tmp_path)
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 18
    # In the middle of a validation, too: the state before the last batch of training, 3 epochs of 11 batches.
    output, _ = mortal.run(tmp_path, death=["told", "acnet_pl.modules:ImageClassifier.validation_step", 1])
    assert "Stopped by SIGTERM" in output
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 21
    # Outside of training there is nothing to write.
    before = (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    output, _ = mortal.run(tmp_path, death=["told", "acnet_pl.modules:ImageClassifier.test_step", 1])
    assert "Traceback" not in output
    assert (run / "UNFINISHED").exists()
    assert (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns > before  # that of the end of training
    mortal.run(tmp_path)
    expected, _ = undisturbed
    type(expected)(run).assert_same_as(expected)


@pytest.mark.faults
def test_sigterm_to_a_process_of_its_own(start: Any, tmp_path: Path) -> None:
    process = start(tmp_path, "--trainer.max_epochs", "1000")
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/mortal/*/checkpoints/last.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 143, output + errors
    assert time.monotonic() - asked < 30
    assert "Stopped by SIGTERM" in output + errors
    assert "Traceback" not in output + errors


@pytest.mark.parametrize("name", ["UNFINISHED", "hparams.yaml", "tables"])
def test_a_link_out_of_a_run_folder_is_not_written_through(name: str, tmp_path: Path) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    victim.write_text("mine")
    (run / name).symlink_to(victim)
    with pytest.raises(ValueError, match=f"{name} is a link that leads out of the run's folder"):
        check_entries(run)
    if name == "UNFINISHED":
        with pytest.raises(OSError, match="it is a link, expected a regular file"):
            Claim.of(run)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("loops", "x"),
        ("loops/fit_loop", None),
        ("loops/fit_loop/epoch_progress/current/ready", -3),
        ("epoch", "1"),
        ("callbacks", []),
        ("optimizer_states", []),
        ("optimizer_states", [{"state": {}}]),
        ("acnet_pl", [1]),
        ("acnet_pl/steps_logged", None),
        ("acnet_pl/rows", -1),
    ],
)
def test_a_checkpoint_of_another_form_is_passed_over(place: str, value: Any, halfway: Any, tmp_path: Path) -> None:
    (last,) = halfway[1].glob("runs/mortal/*/checkpoints/last.ckpt")
    content = torch.load(last)
    model: Any = SimpleNamespace(hparams=content["hyper_parameters"])
    (tmp_path / "checkpoints").mkdir()
    torch.save(content, tmp_path / "checkpoints/previous.ckpt")
    *parents, key = place.split("/")
    inner = content
    for name in parents:
        inner = inner[name]
    inner[key] = value
    torch.save(content, tmp_path / "checkpoints/last.ckpt")
    with pytest.warns(UserWarning, match=f"its {place.replace('/', '.')}.* is not as RunCheckpoint writes it"):
        assert newest_checkpoint(tmp_path, model) == tmp_path / "checkpoints/previous.ckpt"
    assert newest_checkpoint(tmp_path, model, set_aside=False) == tmp_path / "checkpoints/previous.ckpt"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"1,2\n3,4\n", "does not name the columns"), (b"step,a\n1,\xff\n", "codec"), (b"", "0 of the 2 rows")],
)
def test_a_table_of_metrics_that_was_edited_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    found = pytest.raises(ValueError, match=f"{path} cannot be read .*{message}")
    with found if content else pytest.warns(UserWarning, match=f"{path} has {message}"):
        MetricsCSV(tmp_path).rewind(2)
    assert path.exists() == bool(content)


def test_a_file_that_has_a_name_elsewhere_too_is_left_there_as_it_is(tmp_path: Path) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    (run / "tables").mkdir(parents=True)
    (run / "checkpoints").mkdir()
    victim.write_text("mine")
    for name in ("UNFINISHED", "hparams.yaml", "tables/rotation.csv", "checkpoints/last.ckpt"):
        os.link(victim, run / name)
    separate_files(run)
    (run / "hparams.yaml").write_text("new")
    (run / "tables/rotation.csv").write_text("new")
    assert victim.read_text() == "mine"
    assert victim.stat().st_nlink == 3  # a checkpoint is replaced, and the marker locked


def test_entries_that_belong_in_a_run_folder(tmp_path: Path) -> None:
    logs = tmp_path / "wandb/run-1/logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to("/elsewhere/core.log")  # by W&B itself
    (tmp_path / "wandb/latest-run").symlink_to("run-1")
    check_entries(tmp_path)
    for name in ("files", "logs/debug.log"):  # where W&B would write through a link
        (tmp_path / "wandb/run-1" / name).symlink_to(__file__)
        with pytest.raises(ValueError, match=f"{name} is a link that leads out of the run's folder"):
            check_entries(tmp_path)
        (tmp_path / "wandb/run-1" / name).unlink()
    os.link(__file__, tmp_path / "UNFINISHED")  # not by a link: the same file twice
    claim = Claim.of(tmp_path)
    assert claim is not None
    claim.finish()
    assert Path(__file__).read_text().startswith('"""')
    os.mkfifo(tmp_path / "metrics.csv")
    with pytest.raises(ValueError, match=r"metrics\.csv is neither a file nor a folder"):
        check_entries(tmp_path)
