"""Rules about the tree itself, and proof that the checks behind them can fail."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED_AT_TOP = {
    "Makefile", "README.md", "deploy", "proto", "pyproject.toml", "requirements.lock", "src", "tests",
}  # fmt: skip
MAX_LINES = 500
PURE_PACKAGES = ("consensus", "ordering")
IMPURE = (
    "asyncio", "logging", "os", "pathlib", "random", "secrets", "socket", "sqlite3", "threading", "time",
    "uuid",
)  # fmt: skip
LAYERS = ("cli", "faults", "node", "ledger", "ordering", "identity", "consensus", "errors")  # top to bottom

NotRun = Callable[[str], NoReturn]


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of this Python environment; its output is for the assertion message."""
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, check=False, timeout=100
    )


@pytest.fixture
def need(not_run: NotRun) -> Callable[[str], None]:
    """`need("ruff")`: the tool is installed here, or the test is not run."""

    def check(module: str) -> None:
        if find_spec(module) is None:
            not_run(f"{module} is not installed in this environment")

    return check


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Files tracked or to be added, relative to the root; without git, all that are not hidden."""
    try:
        listing = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        names = [Path(name) for name in listing.stdout.splitlines()]
    except (OSError, subprocess.CalledProcessError):
        every = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        hidden = re.compile(r"(^|/)(\.|__pycache__|build/|[^/]*\.egg-info)")
        names = [path for path in every if not hidden.search(path.as_posix())]
    return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the static checks look at, to plant violations in."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    return tmp_path


def plant(tree: Path, package: str, line: str) -> None:
    """Add `line` to a new module of `package`, or to the module itself where it is no package."""
    module = tree / f"src/replication/{package}.py"
    path = module if module.exists() else tree / "src/replication" / package / "planted.py"
    before = path.read_text() if path.exists() else ""
    path.write_text(f"{before}\n{line}\n")


# ----------------------------------------------------------------------------------------- the tree


def test_top_level_holds_only_what_the_layout_allows(files: list[Path]) -> None:
    top = {path.parts[0] for path in files}
    assert {name for name in top if not name.startswith(".")} <= ALLOWED_AT_TOP


def test_no_file_names_a_package_index(files: list[Path]) -> None:
    # The names are put together here, so that this file does not find itself.
    hosts = ["pypi" + ".org", "python" + "hosted.org", *configured_index_hosts()]
    pattern = re.compile("|".join(map(re.escape, hosts)) + r"|https?://\S+/sim" + "ple(/|$)")
    found = [path for path in files if pattern.search((ROOT / path).read_text(errors="ignore"))]
    assert found == []


def configured_index_hosts() -> set[str]:
    """Hosts of the package indexes that this machine's pip uses, if any are set."""
    settings = run("pip", "config", "list", cwd=ROOT).stdout
    return set(re.findall(r"https?://(?:[^@/\s']*@)?([A-Za-z0-9.-]+\.[A-Za-z0-9-]+)", settings))


def test_lock_is_hashed_and_covers_every_dependency() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.findall(
        r"^([a-z0-9.-]+)==\S+(?: ;[^\\\n]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$", lock, re.M
    )
    pinned = {name for name, hashes in entries if hashes}
    assert len(pinned) == len(re.findall("^[a-z]", lock, re.M))
    assert pinned >= {re.split("[=<>~ ;]", requirement)[0] for requirement in requirements()}


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["dev"]]


def test_each_runtime_dependency_has_a_floor() -> None:
    # `make floors` makes an exact pin of each, by the same pattern.
    runtime = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [name for name in runtime if not re.match(r"[a-z0-9-]+>=[0-9.]+(,|$)", name)] == []


def test_generated_code_needs_no_more_than_the_floors() -> None:
    # Generated code refuses to be imported by a runtime older than its generator.
    floors = dict(re.findall(r"^([a-z-]+)>=([0-9.]+)", "\n".join(requirements()), re.M))
    generated = "".join(path.read_text() for path in (ROOT / "src/replication/v1").glob("*_pb2*.py"))
    assert set(re.findall(r"^GRPC_GENERATED_VERSION = '(.*)'", generated, re.M)) == {floors["grpcio"]}
    assert set(re.findall(r"^# Protobuf Python Version: (.*)", generated, re.M)) == {floors["protobuf"]}


def test_no_source_file_is_too_long(files: list[Path]) -> None:
    ours = [p for p in files if p.suffix == ".py" and p.parts[0] == "src" and "v1" not in p.parts]
    lengths = {path.as_posix(): len((ROOT / path).read_text().splitlines()) for path in ours}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


# ------------------------------------------------------------------------------ purity of the cores


def test_pure_packages_are_pure(tree: Path, need: Callable[[str], None]) -> None:
    need("ruff")
    for package in PURE_PACKAGES:
        result = run("ruff", "check", "--no-cache", "--select=TID251", f"src/replication/{package}", cwd=tree)
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("package", PURE_PACKAGES)
def test_impurity_is_found(tree: Path, package: str, need: Callable[[str], None]) -> None:
    need("ruff")
    for module in IMPURE:
        plant(tree, package, f"import {module}")
    plant(tree, package, "from datetime import datetime\nnow = datetime.now()")
    result = run(
        "ruff", "check", "--no-cache", "--output-format=concise", f"src/replication/{package}", cwd=tree
    )
    banned = re.findall(r"planted\.py:.* TID251 `([a-z0-9.]+)` is banned", result.stdout)
    assert sorted(banned) == sorted([*IMPURE, "datetime.datetime.now"]), result.stdout


# --------------------------------------------------------------------------------- who imports whom


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    """What `lint-imports` says about the copy in `tree`, which is put first on the path."""
    code = (
        "import sys; sys.path.insert(0, 'src'); from importlinter.cli import lint_imports_command as c; c()"
    )
    command = [sys.executable, "-c", code, "--no-cache"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, timeout=100)


def complete(tree: Path) -> None:
    """Make the layers that may be missing, so that what is found is the planted import and not the gap."""
    for layer in {*LAYERS, "client"} - {"errors"}:
        folder = tree / "src/replication" / layer
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()


def test_layers_are_kept(tree: Path, need: Callable[[str], None]) -> None:
    need("importlinter")
    result = lint_imports(tree)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("package", "imported"),
    [
        *zip(LAYERS[1:], LAYERS, strict=False),
        ("node", "client"),
        ("client", "node"),
        ("consensus", "v1"),
        ("identity", "v1"),
        ("ordering", "v1"),
    ],
)
def test_an_import_against_the_layers_is_found(
    tree: Path, package: str, imported: str, need: Callable[[str], None]
) -> None:
    need("importlinter")
    complete(tree)
    plant(tree, package, f"import replication.{imported}")
    result = lint_imports(tree)
    assert result.returncode == 1, result.stderr
    line = rf"replication\.{package}(\.planted)? -> replication\.{imported}\b"
    assert re.search(line, result.stdout), result.stdout


def test_a_package_outside_the_layers_is_found(tree: Path, need: Callable[[str], None]) -> None:
    need("importlinter")
    complete(tree)
    (tree / "src/replication/shortcut.py").write_text("")
    result = lint_imports(tree)
    assert result.returncode == 1
    assert "shortcut" in result.stdout + result.stderr
