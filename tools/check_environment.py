"""Says in plain words what `make` lacks on this machine. Exit status 1 when anything is missing.

    check_environment.py tools                     Python, its headers and venv, a C++ compiler
    check_environment.py packages FILE [FILE...]   torch, numpy and the packages in these files
    check_environment.py gpu [COMMAND...]          a GPU that torch can use, pytest, these commands

No third-party import at the top, and nothing newer than Python 3.6: it must run to complain.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig

OLDEST_PYTHON = (3, 10)
OLDEST_TORCH = (2, 11)
# These are commands, or packages with another import name.
COMMANDS = {"clang-format", "ninja"}


def compiler_problems():
    # CXX may be "ccache g++". Its first word must exist.
    problems = []
    compiler = os.environ.get("CXX", "c++").split()[0]
    if not shutil.which(compiler):
        problems.append("no C++ compiler ({}): sudo apt install g++".format(compiler))
    if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        problems.append(
            "no Python.h, which the compiler needs: sudo apt install python3-dev\n"
            "    (for a Python that is not the system's own: python{}.{}-dev)".format(
                *sys.version_info[:2]
            )
        )
    return problems


def tools_problems():
    problems = compiler_problems()
    # Debian packages ensurepip, a part of venv, separately. Without it, a venv has no pip.
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        problems.append(
            "{} cannot make a virtual environment: sudo apt install python3-venv\n"
            "    (for a Python that is not the system's own: python{}.{}-venv)".format(
                sys.executable, *sys.version_info[:2]
            )
        )
    return problems


def packages_problems(files):
    problems = compiler_problems()
    try:
        # In another process, so that a crash during the import does not lose the message.
        version = subprocess.check_output(
            [sys.executable, "-c", "import torch; print(torch.__version__)"],
            stderr=subprocess.PIPE,
            universal_newlines=True,
        ).strip()
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip().splitlines() or ["no message"])[-1]
        problems.append("torch >= 2.11 cannot be imported ({})".format(last_line))
    else:
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
            problems.append("torch >= 2.11 is needed, found {}".format(version))

    names = {"numpy"}
    for path in files:
        with open(path) as lines:
            names.update(line.split("#")[0].strip() for line in lines)
    for requirement in sorted(names - {""}):
        name = requirement
        for mark in "<>=!~;[ ":
            name = name.split(mark)[0]
        found = shutil.which(name) if name in COMMANDS else importlib.util.find_spec(name)
        if not found:
            problems.append("missing: {}".format(requirement))
    return problems


def failure(command):
    """None, or the last line of what a command said when it failed."""
    try:
        subprocess.check_output(command, stderr=subprocess.STDOUT, universal_newlines=True)
    except subprocess.CalledProcessError as error:
        return (error.output.strip().splitlines() or ["no message"])[-1]
    except OSError as error:
        return str(error)
    return None


def gpu_problems(commands):
    code = "import torch, sys; sys.exit(0 if torch.cuda.is_available() else torch.__version__)"
    problems = []
    why = failure(["nvidia-smi", "-L"])
    if why:
        problems.append("nvidia-smi shows no GPU: is the driver installed? ({})".format(why))
    why = failure([sys.executable, "-c", code])
    if why:
        problems.append("torch has no GPU in {} ({})".format(sys.executable, why))
    if not importlib.util.find_spec("pytest"):
        problems.append("missing: pytest")
    lacking = [command for command in commands if not shutil.which(command)]
    return problems + [
        "missing: {}, which comes with the CUDA toolkit".format(command) for command in lacking
    ]


def main(arguments):
    if sys.version_info < OLDEST_PYTHON:
        problems = [
            "Python >= 3.10 is needed; {} is {}.{}. Name another: make PYTHON=python3.12".format(
                sys.executable, *sys.version_info[:2]
            )
        ]
    elif arguments[0] == "tools":
        problems = tools_problems()
    elif arguments[0] == "gpu":
        problems = gpu_problems(arguments[1:])
    else:
        problems = packages_problems(arguments[1:])
    for problem in problems:
        sys.stderr.write("  - {}\n".format(problem))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
