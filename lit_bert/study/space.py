"""What a study is asked for: candidates, each over the same seeds and folds, or ranges to find better ones in."""

import argparse
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
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
    """All that a study does: candidates, or in a search trials in `space`, each with all seeds and folds.

    The `options` are those of `fit` that all candidates share; alone, they are the baseline.
    """

    options: tuple[str, ...] = ()
    seeds: int = 1
    folds: int | None = None
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    space: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 0

    @property
    def size(self) -> int:
        """Number of trials: the candidates of a search, otherwise the runs."""
        return self.trials if self.space else len(self._grid)

    def runs(self, place: int, params: Mapping[str, Any]) -> list[Run]:
        """Return the runs of the trial at a place: one, or in a search all those of the candidate with `params`."""
        if not self.space:
            return [self._grid[place]]
        name, options = f"trial{place:03}", as_options(params)
        return [replace(run, candidate=name, options=options) for run in self._grid]

    @property
    def _grid(self) -> list[Run]:
        candidates = {BASELINE: (), **self.variants}
        seeds, folds = range(1, self.seeds + 1), range(1, self.folds + 1) if self.folds else [None]
        return [Run(name, seed, fold, candidates[name]) for seed in seeds for name in candidates for fold in folds]

    def arguments(self, run: Run) -> list[str]:
        """Return the arguments of `fit` for a run."""
        folds = [] if run.fold is None else [f"--data.folds={self.folds}", f"--data.fold={run.fold}"]
        return [*self.options, *run.options, f"--seed_everything={run.seed}", *folds]


def as_options(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return values as options of the command line."""
    texts = [value if isinstance(value, str) else json.dumps(value, default=str) for value in values.values()]
    return tuple(f"--{name}={text}" for name, text in zip(values, texts, strict=True))


def suggest(trial: Trial, space: Mapping[str, Any]) -> dict[str, Any]:
    """Draw a value from the range of each option: whole numbers if both ends are."""
    values: dict[str, Any] = {}
    for name, given in space.items():
        if isinstance(given, list):
            values[name] = trial.suggest_categorical(name, given)
        elif isinstance(given["low"], int) and isinstance(given["high"], int):
            values[name] = trial.suggest_int(name, **given)
        else:
            values[name] = trial.suggest_float(name, **given)
    return values


def read_plan(options: argparse.Namespace, shared: Sequence[str]) -> Plan:
    """Return the plan that a study's own options, and those of `fit` that its runs share, ask for."""
    for name, least in (("seeds", 1), ("folds", 2), ("trials", 1), ("workers", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: it must be at least {least}")
    if options.search and (options.variant or options.variants):
        raise UserError("--search and variants: a study either searches or compares; leave one of the two out")
    if not re.fullmatch(NAME, options.name):
        raise UserError(f"--name {options.name}: give a name for a folder, of letters, digits, -, _ and .")
    given = _read_variants(options.variants) if options.variants else []
    for name, text in options.variant:
        try:
            given.append((name, tuple(shlex.split(text))))
        except ValueError as error:
            raise UserError(f"--variant {name} {text.strip()!r}: {reason(error)}") from error
    names = [BASELINE, *(name for name, _ in given)]
    for name in names[1:]:
        if names.count(name) > 1 or not re.fullmatch(NAME, name):
            raise UserError(f"--variant {name}: give each its own name, of letters, digits, -, _ and .")
    space = read_space(options.search) if options.search else {}
    words = [*shared, *(word for _, listed in given for word in listed), *(f"--{name}" for name in space)]
    if reserved := RESERVED.intersection(word.removeprefix("--").partition("=")[0] for word in words):
        raise UserError(f"--{min(reserved)}: a study sets it for each of its runs; leave it out")
    return Plan(tuple(shared), options.seeds, options.folds, dict(given), space, options.trials)


def _read_variants(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    advice = "give options for each name, such as decay: {model.weight_decay: 0.1}"
    variants = _read(path, "--variants", advice)
    for name, values in variants.items():
        if not isinstance(values, dict) or any(isinstance(value, dict) for value in values.values()):
            raise UserError(f"--variants {path}: {name}: {advice}")
    return [(name, as_options(values)) for name, values in variants.items()]


def read_space(path: Path) -> dict[str, Any]:
    """Read the ranges of a search: `{low, high}` of an option, `log: true` or `step`, or a list of values."""
    space = _read(path, "--search", "give a range for each option, such as model.learning_rate: [1e-5, 3e-5]")
    advice = "give low and high, and log: true or a step if you like, or a list of values"
    for name, given in space.items():
        try:
            suggest(optuna.create_study().ask(), {name: given})
        except (KeyError, ValueError, TypeError, ArithmeticError) as error:
            raise UserError(f"--search {path}: {name}: {given}: {advice} ({reason(error)})") from error
    return space


def _read(path: Path, option: str, advice: str) -> dict[str, Any]:
    try:
        content = get_loader("yaml")(path.read_text("utf-8"))  # unlike PyYAML's own, it takes 1e-5 for a number
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{option} {path}: cannot be read ({reason(error)})") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{option} {path}: {advice}")
    return {str(name): value for name, value in content.items()}
