"""Finding a `tritonserver` and what it needs around it.

A server named by the user or on PATH is taken as it is. Else it is the one inside the `nvidia-pytriton` package, which
stays untouched: its Python backend is linked into a private folder, next to the stub for this Python version.

That stub embeds Python and ignores PYTHONPATH and PYTHONHOME. It takes the environment of the first `python3` on PATH
(a virtual environment too, by its `pyvenv.cfg`), and needs this Python's shared library.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from qwen3vl.errors import ArtifactError

PACKAGE = "nvidia-pytriton"
BACKEND_FILES = ("libtriton_python.so", "triton_python_backend_utils.py")
STUB = "triton_python_backend_stub"
# By this name the backend looks for the NVIDIA driver; containers may have it by that of its version alone.
DRIVER, DRIVER_VERSION = "libcuda.so", "libcuda.so.1"
# What the stub exits with when it is started without arguments, once it has found its libraries.
STUB_USAGE_EXIT = 1
# An image of 1920x1080 passes through some 40 MB of arrays in several processes. By default each is mapped anew, and
# mapping costs more than the work: the C library and Pillow are told to keep what they freed.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
               "PILLOW_BLOCKS_MAX": "8"}


@dataclass(frozen=True)
class ServerBinary:
    """A server, the arguments and the environment variables that it needs."""

    path: Path
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def find_server(named: str | None, runtime: Path) -> ServerBinary:
    """Find a server: the one named, else the one on PATH, else the package's.

    Args:
        named: path or command name of a tritonserver.
        runtime: an existing private folder for links.

    Raises:
        ArtifactError: there is none, or this Python cannot run its models.
    """
    if named:
        found = shutil.which(named)
        if found is None:
            raise ArtifactError(f"{named} is not an executable tritonserver")
        return ServerBinary(Path(found))
    if found := shutil.which("tritonserver"):
        return ServerBinary(Path(found))
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise ArtifactError(f"there is no tritonserver on PATH and the package {PACKAGE} is not installed: run "
                            f"`pip install --no-deps {PACKAGE}`, or name a server with --server")
    return _package_server(Path(spec.submodule_search_locations[0]) / "tritonserver", runtime)


def _package_server(root: Path, runtime: Path) -> ServerBinary:
    _check_numpy()
    stub = root / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}" / STUB
    if not stub.is_file():
        versions = ", ".join(sorted(folder.name for folder in stub.parent.parent.iterdir()))
        raise ArtifactError(f"{PACKAGE} has no Python backend for Python {stub.parent.name}, only for {versions}")
    backend = runtime / "backends" / "python"
    backend.mkdir(parents=True)
    for file in (*(root / "backends" / "python" / name for name in BACKEND_FILES), stub):
        (backend / file.name).symlink_to(file)
    libraries = runtime / "lib"
    libraries.mkdir()
    library = find_libpython()
    (libraries / library.name).symlink_to(library)
    _link_driver(libraries)
    search = [str(libraries), str(root.parent.parent / "nvidia_pytriton.libs"), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, search)),
                   "PATH": os.pathsep.join([str(_python3_folder()), os.environ.get("PATH", os.defpath)])}
    _try_stub(stub, environment)
    return ServerBinary(root / "bin" / "tritonserver", (f"--backend-directory={backend.parent}",), environment)


def find_libpython() -> Path:
    """The shared library of this Python.

    Raises:
        ArtifactError: it was built without, and the system has none of this version either.
    """
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    own = [sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix) / "lib"]
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    system = [Path("/usr/lib") / multiarch, "/usr/lib64", "/usr/lib", "/usr/local/lib"]
    for folder in [*filter(None, own), *system]:
        if (path := Path(folder) / name).is_file():
            return path
    raise ArtifactError(
        f"{name} was not found: tritonserver's Python backend needs Python as a shared library, and {sys.executable} "
        f"was built without. Install it (Debian, Ubuntu: `apt install {name.removesuffix('.so.1.0')}`; pyenv: "
        "`PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install`), or use another Python")


def _link_driver(folder: Path) -> None:
    """Give the driver, if there is one, the name that the backend looks for, unless it has it."""
    with contextlib.suppress(OSError):
        ctypes.CDLL(DRIVER_VERSION)
        try:
            ctypes.CDLL(DRIVER)
        except OSError:
            maps = Path("/proc/self/maps").read_text().split()
            (folder / DRIVER).symlink_to(next(word for word in maps if Path(word).name.startswith(DRIVER)))


def _python3_folder() -> Path:
    """The folder to put first on PATH. Not resolved: a virtual environment's python is a link out of it."""
    folder = Path(sys.executable).absolute().parent
    if not (folder / "python3").exists():
        raise ArtifactError(f"{folder} has {Path(sys.executable).name} but no python3, by which tritonserver's Python "
                            "backend finds its packages: use a virtual environment")
    return folder


def _check_numpy() -> None:
    """Refuse a numpy that the package's stub was not made for: tensors would arrive empty or as garbage."""
    required = importlib.metadata.requires(PACKAGE) or []
    limited = any(requirement.startswith("numpy") and "<2" in requirement for requirement in required)
    installed = importlib.metadata.version("numpy")
    if limited and int(installed.partition(".")[0]) >= 2:
        raise ArtifactError(f"numpy {installed} is installed, but the Python backend in {PACKAGE} "
                            f"{importlib.metadata.version(PACKAGE)} needs numpy below 2: run `pip install 'numpy<2'`, "
                            "or name another server with --server")


def _try_stub(stub: Path, environment: dict[str, str]) -> None:
    result = subprocess.run([str(stub)], env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if result.returncode != STUB_USAGE_EXIT:
        raise ArtifactError(f"tritonserver's Python backend does not start on this machine (exit code "
                            f"{result.returncode}): {(result.stderr or result.stdout).strip()}")
