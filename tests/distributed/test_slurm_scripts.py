"""The scripts of experiments/cluster/ with stand-ins for SLURM's commands: what they run, and when they queue again."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from acnet_pl.cli import main

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "experiments" / "cluster"
BATCH = sorted(CLUSTER.glob("*.sbatch"))
JOB = {"SLURM_JOB_ID": "4711", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "8", "SLURM_CPUS_PER_TASK": "12"}

# Each writes its arguments to a file, one a line; srun ends as the tasks are said to.
STAND_IN = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$CALLS/${0##*/}"
[[ ${0##*/} == srun ]] && echo "$SRUN_CPUS_PER_TASK" > "$CALLS/cpus" && exit "${TASKS_END:-0}"
exit 0
"""


# What srun does, on one machine: a process for each task, SIGTERM to all of them, the largest exit code of theirs.
SRUN = """
import os, signal, socket, subprocess, sys

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
nodes, tasks = int(os.environ["SLURM_NNODES"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "SLURM_NTASKS": nodes * tasks, "SLURM_JOB_NAME": "acnet"}
processes = []
for rank in range(nodes * tasks):
    own = {"SLURM_PROCID": rank, "SLURM_NODEID": rank // tasks, "SLURM_LOCALID": rank % tasks}
    variables = {name: str(value) for name, value in {**shared, **own}.items()}
    command = [argument for argument in sys.argv[1:] if argument != "--kill-on-bad-exit=1"]
    processes.append(subprocess.Popen(command, env={**os.environ, **variables}))
signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in processes])
sys.exit(max(process.wait() % 256 for process in processes))
"""


@dataclass
class Slurm:
    """Stand-ins for srun, sbatch and scontrol, and the calls that they noted."""

    calls: Path
    programs: Path

    def run(self, script: Path, *args: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **JOB, **variables, "PATH": path, "CALLS": str(self.calls)}
        return subprocess.run(
            ["bash", str(script), *args], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )

    def arguments(self, program: str) -> list[str] | None:
        file = self.calls / program
        return file.read_text().splitlines() if file.exists() else None


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    calls, programs = tmp_path / "calls", tmp_path / "programs"
    for folder in (calls, programs):
        folder.mkdir()
    for name in ("srun", "sbatch", "scontrol"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    (programs / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (programs / "python").chmod(0o755)
    return Slurm(calls, programs)


def parsed(command: list[str], capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, object]:
    """What acnet_pl makes of a command that srun was given."""
    start = command.index("acnet_pl")
    assert command[start - 2 : start] == ["python", "-m"]
    assert main([*command[start + 1 :], "--print_config", *options]) == 0
    config: dict[str, object] = yaml.safe_load(capsys.readouterr().out)
    return config


@pytest.mark.parametrize("script", sorted(CLUSTER.iterdir()), ids=lambda path: path.name)
def test_a_script_is_sound_bash_and_says_how_it_is_used(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert f"experiments/cluster/{script.name}" in script.read_text()


@pytest.mark.filterwarnings("ignore")
def test_a_job_trains_on_all_its_tasks(slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--config", "experiments/imagenet/resnet18.yaml", "--config", "experiments/conv/acb.yaml"]
    assert slurm.run(CLUSTER / "fit.sbatch", *given, "--name", "two words").returncode == 0
    command = slurm.arguments("srun")
    assert command is not None
    config = parsed(command, capsys)
    trainer = config["trainer"]
    assert isinstance(trainer, dict)
    assert (trainer["devices"], trainer["num_nodes"], trainer["strategy"]) == ("8", 2, "ddp")
    assert (config["resume"], config["name"]) == ("auto", "two words")
    assert (slurm.calls / "cpus").read_text() == "12\n"
    assert slurm.arguments("scontrol") is None


@pytest.mark.parametrize("script", BATCH, ids=lambda path: path.name)
@pytest.mark.parametrize(("code", "again"), [(0, False), (1, False), (137, False), (143, True)])
def test_a_job_that_was_told_to_stop_queues_again(
    script: Path, code: int, again: bool, slurm: Slurm, tmp_path: Path
) -> None:
    (tmp_path / "commands").write_text("python -m acnet_pl fit --resume auto\n")
    args = [str(tmp_path / "commands")] if script.name == "run_line.sbatch" else []
    done = slurm.run(script, *args, TASKS_END=str(code), SLURM_ARRAY_TASK_ID="1")
    assert done.returncode == code
    assert slurm.arguments("scontrol") == (["requeue", "4711"] if again else None)


@pytest.mark.parametrize("script", BATCH, ids=lambda path: path.name)
def test_a_job_leaves_time_to_stop_and_its_tasks_are_what_lightning_expects(script: Path) -> None:
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script.read_text(), flags=re.M))
    name, _, seconds = directives["signal"].partition("@")
    assert name == "TERM"  # to the tasks; "B:TERM" would go to the script alone
    assert int(seconds) >= 120
    assert {"requeue", "open-mode", "time"} <= directives.keys()
    # Lightning refuses --ntasks for several tasks, and takes jobs of these names for interactive ones.
    assert directives.get("ntasks", "1") == "1"
    assert directives["job-name"] not in ("bash", "interactive")


@pytest.mark.filterwarnings("ignore")
def test_an_array_has_a_task_for_every_run(
    slurm: Slurm, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["digits", "--models", "cifar_quick", "--variants", "plain", "acb", "--seeds", "0", "1"]
    args += ["--wandb.tags", "['two words']"]
    monkeypatch.chdir(tmp_path)
    command = ["reproduce", *args, "--list"]
    assert main(command) == 0
    listed = tmp_path / "listed"
    listed.write_text(capsys.readouterr().out)
    (slurm.programs / "python").write_text(STAND_IN.replace("exit 0\n", f"cat {listed}\n"))
    done = slurm.run(CLUSTER / "submit_reproduce.sh", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert slurm.arguments("python") == ["-m", "acnet_pl", *command]
    submitted = slurm.arguments("sbatch")
    assert submitted is not None
    array, script, commands = submitted
    lines = (tmp_path / commands).read_text().splitlines()
    assert array == f"--array=1-{len(lines)}"
    assert len(lines) == 4  # plain and ACNet, two seeds
    names = set()
    for task in (1, len(lines)):
        slurm.run(Path(script), commands, cwd=tmp_path, SLURM_ARRAY_TASK_ID=str(task))
        started = slurm.arguments("srun")
        assert started is not None
        assert shlex.join(started) == lines[task - 1]
        config = parsed(started, capsys)
        assert config["resume"] == "auto"
        assert config["wandb"] == {"mode": None, "project": "acnet_pl", "group": None, "tags": ["two words"]}
        names.add(config["name"])
    assert len(names) == 2


@pytest.mark.filterwarnings("ignore")
def test_when_all_runs_are_finished_the_report_is_a_task(slurm: Slurm, tmp_path: Path) -> None:
    (slurm.programs / "python").write_text("#!/bin/sh\nexit 0\n")  # says of no run that it is left
    args = ["fig5", "--wandb.tags", "['two words']"]
    assert slurm.run(CLUSTER / "submit_reproduce.sh", *args, cwd=tmp_path).returncode == 0
    submitted = slurm.arguments("sbatch")
    assert submitted is not None
    array, script, commands = submitted
    assert array == "--array=1-1"
    slurm.run(Path(script), commands, cwd=tmp_path, SLURM_ARRAY_TASK_ID="1")
    assert slurm.arguments("srun") == ["python", "-m", "acnet_pl", "reproduce", *args]


def test_a_line_that_is_not_there_is_an_error(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "commands").write_text("python -m acnet_pl fit\n")
    done = slurm.run(CLUSTER / "run_line.sbatch", str(tmp_path / "commands"), SLURM_ARRAY_TASK_ID="2")
    assert done.returncode == 2
    assert "no line 2" in done.stderr
    assert slurm.arguments("srun") is None


@pytest.mark.faults  # two trainings, of two processes each
@pytest.mark.parametrize(("nodes", "tasks"), [(1, 2), (2, 1)])
def test_a_pre_empted_job_goes_on_where_it_was(nodes: int, tasks: int, slurm: Slurm, tmp_path: Path) -> None:
    (slurm.programs / "srun").write_text(f"#!{sys.executable}\n{SRUN}")
    network = ["--model.backbone", "ResNetCifar", "--model.backbone.depth", "8", "--data.image_size", "8"]
    options = [
        "--name",
        "job",
        "--trainer.max_epochs",
        "25",
        "--trainer.accelerator",
        "cpu",
        "--wandb.mode",
        "disabled",
    ]
    path = f"{slurm.programs}{os.pathsep}{os.environ['PATH']}"
    job = {**JOB, "SLURM_NNODES": str(nodes), "SLURM_NTASKS_PER_NODE": str(tasks), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **job, "PATH": path, "CALLS": str(slurm.calls)}

    def submit() -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(CLUSTER / "fit.sbatch"), *network, *options],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    first = submit()
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("runs/job/*/checkpoints/last.ckpt")):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGTERM)
    output, _ = first.communicate(timeout=200)
    assert first.returncode == 143, output
    assert slurm.arguments("scontrol") == ["requeue", "4711"]

    (slurm.calls / "scontrol").unlink()
    second = submit()
    output, _ = second.communicate(timeout=500)
    assert second.returncode == 0, output
    assert output.count("Going on with the run") == 1
    assert slurm.arguments("scontrol") is None
    (run,) = (tmp_path / "runs" / "job").iterdir()
    assert (run / "summary.json").is_file()
    assert not (run / "UNFINISHED").exists()
