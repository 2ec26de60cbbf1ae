"""Run the tests with the oldest declared, the pinned and the newest versions, each in an environment of its own.

``python .ci/versions.py [oldest|pinned|newest ...]``. PYTHON_OLDEST and PYTHON_NEWEST name interpreters (the default is
the one that runs this), TESTS what pytest is given instead of the smoke below. An environment takes several GB; it is
made below build/versions and removed when its tests have ended, unless KEEP=1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Fuse, convert, compile, train, deploy; from the command line fit, evaluate, predict and export; go on after a kill.
SMOKE = [f"tests/nn/test_{name}.py" for name in ("fusion", "convert", "acb_compile", "device_and_dtype", "dataflow")]
SMOKE += [f"tests/nn/test_{name}.py" for name in ("other_calls", "every_call", "carried_biases", "code_that_asks")]
SMOKE += ["tests/modules", "tests/test_deploy.py", "tests/test_checkpoint.py"]
SMOKE += ["tests/cli/test_trust.py", "tests/cli/test_runs.py", "tests/cli/test_export_command.py"]
SMOKE += ["tests/faults/test_going_on.py"]
_SAY = """import sys
from importlib.metadata import version
print(sys.version.split()[0], *(f"{{name}}=={{version(name)}}" for name in "{packages}".split()))"""
TOOLS = ["pytest", "pytest-xdist", "hypothesis"]


def declared() -> list[str]:
    """Return the requirements of the package and of its extras that users install, such as ``torch>=2.8``."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.search(r"^dependencies = \[(.*?)^\]", text, re.M | re.S)
    extras = re.findall(r"^(?:timm|export|streaming|tensorboard) = \[(.*?)\]", text, re.M)
    parts = [named[1] if named else "", *extras]
    found = [requirement for part in parts for requirement in re.findall(r'"(.+?)"', part)]
    if not found:
        raise SystemExit("pyproject.toml declares nothing")
    return found


def requirements(which: str) -> list[str]:
    """Return what pip installs for a set of versions."""
    if which == "oldest":
        return [*(requirement.replace(">=", "==") for requirement in declared()), *TOOLS]
    if which == "pinned":
        return ["--constraint", str(ROOT / "constraints.txt"), *declared(), *TOOLS]
    return ["--upgrade", *declared(), *TOOLS]


def check(which: str) -> int:
    """Make the environment, say what is in it and run the tests; returns pytest's exit code."""
    folder = ROOT / "build" / "versions" / which
    shutil.rmtree(folder, ignore_errors=True)
    python = os.environ.get(f"PYTHON_{which.upper()}", sys.executable)
    try:
        subprocess.run([python, "-m", "venv", folder], check=True)
        own = folder / "bin" / "python"
        subprocess.run([own, "-m", "pip", "install", "--quiet", *requirements(which)], check=True)
        subprocess.run([own, "-m", "pip", "install", "--quiet", "--no-deps", "--editable", ROOT], check=True)
        packages = " ".join(re.split(r"[\[>=]", requirement)[0] for requirement in declared())
        say = _SAY.format(packages=packages)
        subprocess.run([own, "-c", say], check=True)
        tests = os.environ.get("TESTS", "").split() or SMOKE
        return subprocess.run([own, "-m", "pytest", "-m", "not slow and not faults", *tests], cwd=ROOT).returncode
    finally:
        if os.environ.get("KEEP") != "1":
            shutil.rmtree(folder, ignore_errors=True)


def main(asked: list[str]) -> int:
    """Run the sets that are asked for, all by default, and print how each ended."""
    sets = asked or ["oldest", "pinned", "newest"]
    if odd := [name for name in sets if name not in ("oldest", "pinned", "newest")]:
        raise SystemExit(f"unknown set {odd[0]!r}; expected oldest, pinned or newest")
    codes = {name: check(name) for name in sets}
    for name, code in codes.items():
        print(f"{name}: {'passed' if code == 0 else f'failed ({code})'}")
    return max(codes.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
