import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lit_bert.errors import UserError
from lit_bert.study.__main__ import _parser, _quoted, main
from lit_bert.study.space import Plan, Run, read_plan, suggest


def plan_of(*words: str) -> Plan:
    return read_plan(*_parser().parse_known_args(_quoted(words)))


def test_ranges_are_read_with_the_types_of_their_ends(tmp_path: Path) -> None:
    text = "a: {low: 1e-5, high: 1.0e-3, log: true}\nb: {low: 2, high: 6}\nc: [8, 16]\nd: [cls, mean]\n"
    text += "e: {low: 0, high: 1.0}\nf: ['32', 1e-5]"
    (tmp_path / "search.yaml").write_text(text)
    trial = optuna.create_study().ask()
    suggest(trial, plan_of(f"--search={tmp_path / 'search.yaml'}").space)
    assert trial.distributions == {
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
        ({"a": {"low": 3, "high": 1}}, "`low <= high` must hold, but got (low=3, high=1)"),
        ({"a": {"low": 1}}, "give low and high"),
        ({"a": {"low": 1, "high": 2, "hihg": 2}}, "give low and high"),
        ({"a": {"low": "x", "high": 2}}, "give low and high"),
        ({"a": {"low": 0.0, "high": 2.0, "log": True}}, "`low > 0` must hold for `log=True`"),
        ({"a": {"low": 1, "high": float("inf")}}, "Range exceeds valid bounds"),
        ({"a": {"low": 1, "high": 10, "step": 0.5}}, "give low and high"),
        ({"a": 3}, "3: give low and high"),
    ],
)
def test_ranges_that_cannot_be_used_are_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"--search: a: .*{re.escape(message)}"):
        suggest(optuna.create_study().ask(), content)


def test_each_variant_is_run_with_each_seed_and_fold() -> None:
    Path("more.yaml").write_text("taught: {distillation.teacher: [a/export, b/export], model.pooling: mean}")
    words = ["--variants=more.yaml", "--variant", "slow", "--model.learning_rate=1e-5", "--config=a.yaml"]
    plan = plan_of("--seeds=2", "--folds=3", *words)
    runs = [run for place in range(plan.size) for run in plan.runs_of(place, {})]
    assert len({run.name for run in runs}) == len(runs) == 3 * 2 * 3
    assert runs[3].options == ('--distillation.teacher=["a/export", "b/export"]', "--model.pooling=mean")
    assert runs[6].name == "slow-seed1-fold1"
    assert plan.arguments(runs[6]) == [
        *("--config=a.yaml", "--data.folds=3", "--model.learning_rate=1e-5", "--seed_everything=1", "--data.fold=1")
    ]


def test_a_trial_of_a_search_is_run_with_all_seeds() -> None:
    plan = Plan((), (Run("baseline", 1), Run("baseline", 2)), {"a.b": {"low": 0, "high": 1.0}, "c": [True, "x"]}, 9)
    runs = plan.runs_of(7, {"a.b": 0.5, "c": True})
    assert [run.name for run in runs] == ["trial007-seed1", "trial007-seed2"]
    assert plan.arguments(runs[1]) == ["--a.b=0.5", "--c=true", "--seed_everything=2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--search=none.yaml", "--variants=flat.yaml"], "--search and variants: a study either searches or compares"),
        (["--ckpt_path=x.ckpt"], "--ckpt_path: a study sets it for each of its runs"),
        (["--variant", "a", "--seed_everything=3"], "--seed_everything: a study sets it"),
        (["--variants=reserved.yaml"], "--checkpoint.dirpath: a study sets it"),
        (["--search=none.yaml"], "--search none.yaml: cannot be read"),
        (["--variants=list.yaml"], "--variants list.yaml: cannot be read as options by name"),
        (["--variants=broken.yaml"], "--variants broken.yaml: cannot be read"),
        (["--variants=flat.yaml"], "--variants flat.yaml: model.weight_decay: give options for each name, such as"),
        (["--variant", "a", "", "--variant", "a", ""], "--variant a: give each its own name"),
        (["--variant", "a", "--model.weight_decay 'x"], "argument --variant: invalid split value"),
        (["--seeds=0"], "argument --seeds: invalid PositiveInt value: '0'"),
        (["--folds=1"], "--folds 1: it must be at least 2"),
        (["--folds=-1"], "--folds -1: it must be at least 2"),
        (["--name=a/b"], "--name a/b: give a name for a folder"),
        (["--name="], "--name : give a name for a folder"),
        *((["--variant", name, ""], f"--variant {name}: give each") for name in ("baseline", "a b", "../a", "")),
    ],
)
def test_options_that_cannot_be_used_are_named(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("flat.yaml").write_text("model.weight_decay: 0.1")
    Path("list.yaml").write_text("- a")
    Path("reserved.yaml").write_text("a: {checkpoint.dirpath: x}")
    Path("broken.yaml").write_text("a: [")
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err
