"""What a study is asked for: candidates, each over the same seeds and folds, or ranges to find better ones in."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader
from optuna.trial import Trial

from lit_bert.errors import UserError, reason

BASELINE = "baseline"
NAME = r"[\w-][\w.-]*"
RESERVED = {
    *("ckpt_path", "checkpoint.dirpath", "seed_everything", "trainer.default_root_dir"),
    *("data.folds", "data.fold", "test_after_fit", "export_after_fit"),
}
"""Options of `fit` that a study sets for its runs."""


@dataclass(frozen=True)
class Run:
    """One run of `fit`, with the options by which its candidate differs from the baseline."""

    candidate: str
    seed: int
    fold: int | None = None
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.candidate}-seed{self.seed}" + ("" if self.fold is None else f"-fold{self.fold}")


@dataclass(frozen=True)
class Plan:
    """All that a study does.

    Args:
        options: Options of `fit` that all runs share; alone, they are the baseline.
        runs: A run of each candidate with each seed and fold, in the order of the trials.
        space: The ranges of a search, in which each trial does all `runs` with options of its own.
        size: Number of trials.
    """

    options: tuple[str, ...]
    runs: tuple[Run, ...]
    space: Mapping[str, Any]
    size: int

    def runs_of(self, place: int, params: Mapping[str, Any]) -> list[Run]:
        """Return the runs of the trial at a place: one, or in a search all those of the candidate with `params`."""
        if not self.space:
            return [self.runs[place]]
        return [replace(run, candidate=f"trial{place:03}", options=as_options(params)) for run in self.runs]

    def arguments(self, run: Run) -> list[str]:
        """Return the arguments of `fit` for a run."""
        fold = [] if run.fold is None else [f"--data.fold={run.fold}"]
        return [*self.options, *run.options, f"--seed_everything={run.seed}", *fold]


def as_options(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return values as options of the command line."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return tuple(f"--{name}={text}" for name, text in texts.items())


def suggest(trial: Trial, space: Mapping[str, Any]) -> dict[str, Any]:
    """Draw a value from the range of each option: whole numbers if both ends are.

    Raises:
        UserError: A range is none of Optuna's.
    """
    values: dict[str, Any] = {}
    for name, given in space.items():
        try:
            if isinstance(given, list):
                values[name] = trial.suggest_categorical(name, given)
            elif isinstance(given["low"], int) and isinstance(given["high"], int):
                values[name] = trial.suggest_int(name, **given)
            else:
                values[name] = trial.suggest_float(name, **given)
        except (KeyError, ValueError, TypeError, ArithmeticError) as error:
            advice = "give low and high, and log: true or a step if you like, or a list of values"
            raise UserError(f"--search: {name}: {given}: {advice} ({reason(error)})") from error
    return values


def read_plan(options: argparse.Namespace, shared: Sequence[str]) -> Plan:
    """Return the plan that a study's own options, and those of `fit` that its runs share, ask for.

    Raises:
        UserError: They cannot be used.
    """
    if not re.fullmatch(NAME, options.name):
        raise UserError(f"--name {options.name}: give a name for a folder, of letters, digits, -, _ and .")
    if options.folds is not None and options.folds < 2:
        raise UserError(f"--folds {options.folds}: it must be at least 2")
    if options.search and (options.variant or options.variants):
        raise UserError("--search and variants: a study either searches or compares; leave one of the two out")
    candidates: list[tuple[str, tuple[str, ...]]] = [(BASELINE, ())]
    for name, values in _read(options.variants, "--variants").items():
        if not isinstance(values, dict):
            advice = "give options for each name, such as decay: {model.weight_decay: 0.1}"
            raise UserError(f"--variants {options.variants}: {name}: {advice}")
        candidates.append((name, as_options(values)))
    candidates += [(" ".join(words), tuple(given)) for words, given in options.variant]
    names = [name for name, _ in candidates]
    for name in names[1:]:
        if names.count(name) > 1 or not re.fullmatch(NAME, name):
            raise UserError(f"--variant {name}: give each its own name, of letters, digits, -, _ and .")
    seeds, folds = range(1, options.seeds + 1), range(1, options.folds + 1) if options.folds else [None]
    runs = [Run(name, seed, fold, given) for seed in seeds for name, given in candidates for fold in folds]
    space, all_share = _read(options.search, "--search"), [f"--data.folds={options.folds}"] if options.folds else []
    words = [*shared, *(word for _, given in candidates for word in given), *(f"--{name}" for name in space)]
    if reserved := RESERVED.intersection(word.removeprefix("--").partition("=")[0] for word in words):
        raise UserError(f"--{min(reserved)}: a study sets it for each of its runs; leave it out")
    return Plan((*shared, *all_share), tuple(runs), space, options.trials if space else len(runs))


def _read(path: Path | None, option: str) -> dict[str, Any]:
    """Return the mapping in a YAML file, which is empty without one."""
    if path is None:
        return {}
    try:
        content = get_loader("yaml")(path.read_text("utf-8"))  # unlike PyYAML's own, it takes 1e-5 for a number
        return {str(name): value for name, value in content.items()}
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{option} {path}: cannot be read as options by name ({reason(error)})") from error
