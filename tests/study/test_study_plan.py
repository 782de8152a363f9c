from pathlib import Path

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lit_bert.errors import UserError
from lit_bert.study.plan import Candidate, Plan, check_names, read_space, read_variants


def space_of(tmp_path: Path, content: object) -> object:
    (tmp_path / "search.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return read_space(tmp_path / "search.yaml")


def test_ranges_are_read_with_the_types_of_their_ends(tmp_path: Path) -> None:
    text = "a: {low: 1e-5, high: 1.0e-3, log: true}\nb: {low: 2, high: 6}\nc: [8, 16]\nd: [cls, mean]\n"
    text += "e: {low: 0, high: 1.0}\nf: ['32', 1e-5]"
    assert space_of(tmp_path, text) == {
        "a": FloatDistribution(1e-5, 1e-3, log=True),
        "b": IntDistribution(2, 6),
        "c": CategoricalDistribution([8, 16]),
        "d": CategoricalDistribution(["cls", "mean"]),
        "e": FloatDistribution(0, 1),
        "f": CategoricalDistribution(["32", 1e-5]),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": {"low": 3, "high": 1}}, "a: low 3 must be below high 1"),
        ({"a": {"low": 1}}, "give low and high"),
        ({"a": {"low": 1, "high": 2, "hihg": 2}}, "give low and high"),
        ({"a": {"low": "x", "high": 2}}, "low 'x' and high 2 must be numbers"),
        ({"a": {"low": 0.0, "high": 2.0, "log": True}}, "a: "),
        ({"a": [1]}, "give at least two values"),
        ({"a": [None, 64]}, "each a number, a word, true or false"),
        ({"a": {"low": 1, "high": float("inf")}}, "low 1 and high inf must be numbers"),
        ({"a": {"low": 1, "high": 10, "step": 0.5}}, "a: "),
        ({"a": 3}, "give low and high"),
        ("- a", "give a range for each option"),
        ("a: [", "cannot be read"),
    ],
)
def test_ranges_that_cannot_be_used_are_named(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(UserError, match=r"--search .*search\.yaml") as error:
        space_of(tmp_path, content)
    assert message in str(error.value)


def test_a_file_of_variants_gives_the_options_of_each(tmp_path: Path) -> None:
    (tmp_path / "variants.yaml").write_text(
        "taught:\n  distillation.teacher: [a/export, b/export]\n  model.pooling: mean\n"
        "slow: {model.learning_rate: 1e-5}"
    )
    assert read_variants(tmp_path / "variants.yaml") == (
        Candidate("taught", ('--distillation.teacher=["a/export", "b/export"]', "--model.pooling=mean")),
        Candidate("slow", ("--model.learning_rate=1e-5",)),
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_space(tmp_path / "none.yaml")


def test_each_variant_is_run_with_each_seed_and_fold() -> None:
    plan = Plan(("--config=a.yaml",), seeds=2, folds=3, variants=(Candidate("slow", ("--model.learning_rate=1e-5",)),))
    runs = [run for number in range(plan.size) for run in plan.runs(number, {})]
    assert len({run.name for run in runs}) == len(runs) == 2 * 2 * 3
    assert runs[3].name == "slow-seed1-fold1"
    assert plan.arguments(runs[3]) == [
        *("--config=a.yaml", "--model.learning_rate=1e-5", "--seed_everything=1", "--data.folds=3", "--data.fold=1")
    ]


def test_a_trial_of_a_search_is_run_with_all_seeds() -> None:
    plan = Plan(
        (), seeds=2, space={"a.b": FloatDistribution(0, 1), "c": CategoricalDistribution([True, "x"])}, trials=9
    )
    runs = plan.runs(7, {"a.b": 0.5, "c": True})
    assert [run.name for run in runs] == ["trial007-seed1", "trial007-seed2"]
    assert plan.arguments(runs[1]) == ["--a.b", "0.5", "--c", "true", "--seed_everything=2"]
    assert plan.size == 9


@pytest.mark.parametrize("names", [["a", "a"], ["baseline"], ["a b"], ["../a"], [""]])
def test_names_that_cannot_be_folders_of_their_own_are_refused(names: list[str]) -> None:
    with pytest.raises(UserError, match="--variant"):
        check_names([Candidate(name) for name in names])
