"""What a study runs: candidates, each over the same seeds and folds."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from lit_bert.errors import UserError, reason

BASELINE = "baseline"


@dataclass(frozen=True)
class Candidate:
    """Options of `fit`, beside those that all candidates share, under a name."""

    name: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One run of `fit`."""

    candidate: Candidate
    seed: int
    fold: int | None

    @property
    def name(self) -> str:
        """Return the name of the run's folder."""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"{self.candidate.name}-seed{self.seed}{fold}"


@dataclass(frozen=True)
class Plan:
    """All that a study is to do.

    Args:
        options: Of `fit`, which all candidates share: the baseline.
        seeds: How many seeds each candidate is run with: 1, 2, and so on.
        folds: Folds that each is validated on, one after the other; None keeps the data's own split.
        variants: Candidates beside the baseline.
        space: Ranges by option, if better values are searched for; `variants` is empty then.
        trials: How many candidates the search tries.
    """

    options: tuple[str, ...]
    seeds: int = 1
    folds: int | None = None
    variants: tuple[Candidate, ...] = ()
    space: Mapping[str, BaseDistribution] = field(default_factory=dict)
    trials: int = 0

    @property
    def size(self) -> int:
        """Return the number of trials: candidates of a search, else runs."""
        return self.trials if self.space else len(self._grid())

    def _grid(self) -> list[Run]:
        candidates = (Candidate(BASELINE), *self.variants)
        return [run for seed in self._seeds() for candidate in candidates for run in self._runs(candidate, seed)]

    def _seeds(self) -> range:
        return range(1, self.seeds + 1)

    def _runs(self, candidate: Candidate, seed: int) -> list[Run]:
        folds = [None] if self.folds is None else range(1, self.folds + 1)
        return [Run(candidate, seed, fold) for fold in folds]

    def runs(self, number: int, params: Mapping[str, Any]) -> list[Run]:
        """Return the runs of a trial: of a search all of a candidate's, whose options are `params`, else one."""
        if not self.space:
            return [self._grid()[number]]
        options = [word for name, value in params.items() for word in (f"--{name}", as_word(value))]
        candidate = Candidate(f"trial{number:03}", tuple(options))
        return [run for seed in self._seeds() for run in self._runs(candidate, seed)]

    def first_value(self, name: str) -> Any:
        """Return a value of an option's range."""
        of_option = self.space[name]
        return of_option.choices[0] if isinstance(of_option, CategoricalDistribution) else of_option.low  # type: ignore[attr-defined]

    def arguments(self, run: Run) -> list[str]:
        """Return the arguments of `fit` that are this run's."""
        folds = [] if run.fold is None else [f"--data.folds={self.folds}", f"--data.fold={run.fold}"]
        return [*self.options, *run.candidate.options, f"--seed_everything={run.seed}", *folds]

    def identity(self) -> str:
        """Return what must be the same if a study is to go on; a search may have more trials."""
        space = {name: distribution_to_json(distribution) for name, distribution in self.space.items()}
        variants = [[variant.name, *variant.options] for variant in self.variants]
        return json.dumps([self.options, self.seeds, self.folds, variants, space])


def as_word(value: Any) -> str:
    """Return an option's value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def read_space(path: Path) -> dict[str, BaseDistribution]:
    """Read the ranges of a search: `{low, high}` of an option, `log: true` or `step`, or a list of values.

    Raises:
        UserError: The file or a range in it cannot be used.
    """
    content = _read(path, "--search", "give a range for each option, such as model.learning_rate: [1e-5, 3e-5]")
    return {name: _distribution(given, f"--search {path}: {name}") for name, given in content.items()}


def read_variants(path: Path) -> tuple[Candidate, ...]:
    """Read variants by their names, each with the values of some options.

    Raises:
        UserError: The file cannot be used.
    """
    advice = "give options for each name, such as decay: {model.weight_decay: 0.1}"
    variants = []
    for name, options in _read(path, "--variants", advice).items():
        if not isinstance(options, dict) or not options or any(isinstance(value, dict) for value in options.values()):
            raise UserError(f"--variants {path}: {name}: {advice}")
        variants.append(Candidate(name, tuple(f"--{option}={as_word(value)}" for option, value in options.items())))
    return tuple(variants)


def _read(path: Path, option: str, advice: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{option} {path}: cannot be read ({reason(error)})") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{option} {path}: {advice}")
    return {str(name): given for name, given in content.items()}


def _distribution(given: Any, where: str) -> BaseDistribution:
    if isinstance(given, list):
        if len(given) < 2 or not all(isinstance(value, str | int | float | bool) for value in given):
            raise UserError(f"{where} {given}: give at least two values, each a number, a word, true or false")
        return CategoricalDistribution([_as_number(value) for value in given])
    if not isinstance(given, dict) or not {"low", "high"} <= given.keys() <= {"low", "high", "log", "step"}:
        raise UserError(f"{where} {given}: give low and high, and log: true or a step if you like, or a list of values")
    low, high = _as_number(given["low"]), _as_number(given["high"])
    numbers = [isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)]
    if not all(numbers) or not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{where}: low {low!r} and high {high!r} must be numbers")
    if low >= high:
        raise UserError(f"{where}: low {low} must be below high {high}")
    kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
    options = {name: _as_number(given[name]) for name in ("log", "step") if given.get(name) is not None}
    try:
        return kind(low, high, **options)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"{where}: {reason(error)}") from error


def _as_number(value: Any) -> Any:
    """Return a number that YAML 1.1 takes for text, such as 1e-5, as a number."""
    is_number = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value)
    return float(value) if is_number else value


def check_names(variants: Sequence[Candidate]) -> None:
    """Check that names can be folders, and are not used twice."""
    names = [BASELINE]
    for variant in variants:
        if variant.name in names or not variant.name.replace("-", "").replace("_", "").isalnum():
            raise UserError(f"--variant {variant.name}: give each its own name, of letters, digits, - and _")
        names.append(variant.name)
