"""The files of the source archive and of the wheel: those that git tracks, and no others."""

import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "stateful_lstm/_C.abi3.so"


def tracked(root=ROOT):
    """The files of a checkout, new ones too, but none that git ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return {name for name in said.splitlines() if (root / name).is_file()}


def copy_tracked(to):
    """A clean copy, as a clone would be, of what is not committed yet as well."""
    for name in tracked():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name)


def package_files():
    """What the installed package has, beside the library."""
    return {name for name in tracked() if name.startswith("stateful_lstm/")}


def sdist_difference(archive):
    """(what the archive lacks, what it should not hold); archives name their own folder first."""
    with tarfile.open(archive) as tar:
        held = {member.name.partition("/")[2] for member in tar.getmembers() if member.isfile()}
    made = {"PKG-INFO", "setup.cfg"}
    held = {name for name in held - made if not name.startswith("stateful_lstm.egg-info/")}
    style = {".clang-format"}  # which make lint and make format need
    wanted = {name for name in tracked() if not name.startswith(".")} | style
    return sorted(wanted - held), sorted(held - wanted)


def wheel_difference(archive):
    """(what the wheel lacks, what it should not hold)."""
    with zipfile.ZipFile(archive) as wheel:
        held = set(wheel.namelist())
    version = archive.name.split("-")[1]
    made = ("METADATA", "WHEEL", "RECORD", "top_level.txt", "licenses/LICENSE")
    about = {f"stateful_lstm-{version}.dist-info/{name}" for name in made}
    wanted = package_files() | about | {LIBRARY}
    return sorted(wanted - held), sorted(held - wanted)
