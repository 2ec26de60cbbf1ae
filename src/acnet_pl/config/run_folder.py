"""Make a run's folder, the same for all its processes, with its configuration and its mark as unfinished."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from acnet_pl.atomic import atomic_path
from acnet_pl.config.files import CONFIG, run_order

__all__ = ["MARKER", "Claim", "check_entries", "make_run_folder", "separate_files", "write_config"]

MARKER = "UNFINISHED"
_NOTE = (
    "This run has not ended. The same command with --resume auto, or fit --resume with this folder, goes on with it.\n"
)
# Neither through a link nor waiting for the reader of a named pipe.
_AS_IT_IS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

_VARIABLE = "ACNET_PL_RUN_FOLDER"


@dataclass
class Claim:
    """Run's folder, marked as unfinished and locked while this process lives.

    Attributes:
        folder: The run's folder.
        descriptor: File descriptor of the open, locked marker.
        is_new: Whether the folder was made for this run.
    """

    folder: Path
    descriptor: int
    is_new: bool = False

    @classmethod
    def of(cls, folder: Path, is_new: bool = False) -> Claim | None:
        """Mark and lock a folder; return None if a living process holds it.

        Raises:
            OSError: The folder came with a link, a folder or a device in place of the marker.
        """
        path = folder / MARKER
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _AS_IT_IS, 0o644)
        except OSError as error:
            if path.is_symlink():
                raise OSError(error.errno, f"it is a link, expected a regular file; remove {path}", str(path)) from None
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, f"it is no regular file; remove {path}", str(path))
        if not _lock(descriptor):
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_size == 0:  # what is there may be the content of another file (a hard link)
            os.pwrite(descriptor, _NOTE.encode(), 0)
        return cls(folder, descriptor, is_new)

    def finish(self) -> None:
        """Remove the mark of a finished run."""
        (self.folder / MARKER).unlink(missing_ok=True)
        os.close(self.descriptor)

    def abandon(self) -> None:
        """Remove the folder of a run that could not begin, if it is new and holds only the run's own files."""
        if not self.is_new or {entry.name for entry in self.folder.iterdir()} - {CONFIG, MARKER}:
            return
        (self.folder / CONFIG).unlink(missing_ok=True)
        self.finish()
        self.folder.rmdir()
        with suppress(OSError):  # other runs of this name
            self.folder.parent.rmdir()


def check_entries(folder: Path) -> None:
    """Check that whatever a run writes by name in its folder stays there.

    Raises:
        ValueError: It holds a link that leads out, a named pipe or a device.
    """
    whole = folder.resolve()
    for above, folders, files in os.walk(folder):  # through no link
        for entry in (Path(above, name) for name in (*folders, *files)):
            if entry.is_symlink():
                if entry.resolve().is_relative_to(whole) or _is_wandbs(entry.relative_to(folder)):
                    continue
                what = "is a link that leads out of the run's folder"
            elif entry.is_file() or entry.is_dir():
                continue
            else:
                what = "is neither a file nor a folder"
            raise ValueError(f"{entry} {what}, where the run may write; remove it, or copy here what it stands for")


def _is_wandbs(entry: Path) -> bool:
    """Return True for the link that W&B makes to the log of its service, and never writes through."""
    return entry.match("wandb/*run-*/logs/debug-core.log")


def separate_files(folder: Path) -> None:
    """Make files that have names elsewhere too (hard links) the folder's own, before they are written to.

    Checkpoints are left, which are replaced and never written to, and the marker, which is locked.
    """
    for above, _, files in os.walk(folder):
        for entry in (Path(above, name) for name in files if above != str(folder / "checkpoints") and name != MARKER):
            if not entry.is_symlink() and entry.stat().st_nlink > 1:
                with atomic_path(entry) as own:
                    shutil.copyfile(entry, own)


def make_run_folder(runs_dir: str, name: str, suffix: str = "") -> Path:
    """Make ``runs_dir/name/<time>`` and return it.

    The first process of a run makes it and leaves its path in the environment, where processes that it starts find it.
    Processes started by someone else (torchrun, SLURM) get a path of their own that they never write to: under
    Lightning checkpoints go where the first process says.

    Raises:
        OSError: The folder cannot be made; the message names it and the option to change.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        return Path(os.environ.get(_VARIABLE) or Path(runs_dir) / name / "other-process")
    # A name sorts after those of earlier runs even if the clock was set back: the newest run is found by its name.
    newest, last, _ = max(map(run_order, (Path(runs_dir) / name).glob("*")), default=("", 0, ""))
    now = datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    started, first = (now, 1) if now > newest else (newest, last + 1)
    for attempt in range(first, first + 1000):
        folder = Path(runs_dir).absolute() / name / (started + suffix + (f"-{attempt}" if attempt > 1 else ""))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if folder.is_dir():
                continue  # another run started within the same second
            raise OSError(
                f"cannot make the run folder {folder}: a file is in the way; choose another --runs_dir"
            ) from None
        except OSError as error:
            raise OSError(f"cannot make the run folder {folder}: {error.strerror}; choose another --runs_dir") from None
        os.environ[_VARIABLE] = str(folder)
        return folder
    raise OSError(f"cannot make a new run folder like {folder}")


def write_config(folder: Path, config: str) -> None:
    """Write a run's whole configuration to its folder."""
    with atomic_path(folder / CONFIG) as unfinished:
        unfinished.write_text(config, encoding="utf-8")


def _lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: nothing keeps two processes from one folder
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, even if a fork lives on
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)  # some file systems of clusters have no locks
    return True
