"""The ready scenarios, in deploy/faults, and how a scenario is found by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from replication.errors import OperatorError
from replication.faults.harness.reading import read_scenario
from replication.faults.harness.scenario import Group, Scenario, ScenarioError
from replication.faults.harness.settings import did_you_mean

__all__ = ["find_library", "find_scenario", "load_library"]

SUFFIX: Final = ".toml"


def find_library(given: Path | None = None) -> Path:
    """The folder with the scenarios: the given one, ``deploy/faults`` here, or that of the source tree.

    Raises `OperatorError` if there is none.
    """
    if given is not None:
        if not given.is_dir():
            raise OperatorError(f"{given} is not a folder of scenarios.")
        return given
    for candidate in (Path("deploy/faults"), Path(__file__).parents[4] / "deploy" / "faults"):
        if candidate.is_dir():
            return candidate
    raise OperatorError(
        "There are no scenarios here. Run it in the project's folder, or name their folder with --library."
    )


def load_library(folder: Path) -> list[Scenario]:
    """All scenarios of a folder, by group and name. Each file must have the name of its scenario.

    Raises `ScenarioError` for the first file that is not a scenario.
    """
    scenarios = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        scenario = read_scenario(path)
        if scenario.name != path.stem:
            raise ScenarioError(f'{path}: name = "{scenario.name}", but the file is called {path.stem}')
        scenarios.append(scenario)
    order = list(Group)
    return sorted(scenarios, key=lambda scenario: (order.index(scenario.group), scenario.name))


def find_scenario(word: str, folder: Path | None = None) -> Scenario:
    """The scenario in the file `word`, or the one of that name in the library.

    Raises `OperatorError` if there is neither.
    """
    path = Path(word)
    if path.suffix == SUFFIX or path.is_file():
        return read_scenario(path)
    library = find_library(folder)
    known = {scenario.name: scenario for scenario in load_library(library)}
    if word not in known:
        raise OperatorError(f"There is no scenario {word!r:.80} in {library}; {did_you_mean(word, known)}.")
    return known[word]
