"""A folder of its own for every run, the same one for all processes of the run."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

__all__ = ["make_run_folder"]

_VARIABLE = "ACNET_PL_RUN_FOLDER"


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
    started = datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    for attempt in range(1, 1000):
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
