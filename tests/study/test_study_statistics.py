import csv
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from lit_bert.study.results import join_folds
from lit_bert.study.space import Run
from lit_bert.study.statistics import best_candidate, mean_interval, print_table, summarise

A = [0.781, 0.790, 0.775, 0.802, 0.779]
B = [0.790, 0.801, 0.779, 0.801, 0.795]


def test_intervals_and_p_are_those_of_scipy() -> None:
    results = {
        Run(name, seed): {"val": scores[seed]} for name, scores in (("baseline", A), ("b", B)) for seed in range(5)
    }
    candidates = summarise(results)
    found = candidates["baseline"]["val"]
    low, high = stats.t.interval(0.95, len(A) - 1, loc=np.mean(A), scale=stats.sem(A))
    assert (found["mean"], found["sd"]) == (pytest.approx(np.mean(A)), pytest.approx(np.std(A, ddof=1)))
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    difference = candidates["b"]["val_difference"]
    test = stats.ttest_rel(B, A)
    assert difference["p"] == pytest.approx(test.pvalue)
    ends = test.confidence_interval(0.95)
    assert (difference["low"], difference["high"]) == (pytest.approx(ends.low), pytest.approx(ends.high))


def test_a_single_run_has_no_interval() -> None:
    assert mean_interval({(1, None): 0.5}) == {"mean": 0.5, "sd": None, "low": None, "high": None, "p": None}
    candidates = summarise({Run("baseline", 1): {"val": 0.25}, Run("other", 2): {"val": 0.5}})
    assert "val_difference" not in candidates["other"]
    same = mean_interval({(1, None): 0.5, (2, None): 0.5})
    assert same == {"mean": 0.5, "sd": 0.0, "low": 0.5, "high": 0.5, "p": None}


def test_scores_of_folds_do_not_count_as_independent() -> None:
    scores = {(seed, fold): A[fold] + seed / 100 for seed in (1, 2) for fold in range(5)}
    found = mean_interval(scores)
    assert (found["mean"], found["sd"]) == (pytest.approx(np.mean(A) + 0.015), pytest.approx(np.std(A, ddof=1)))
    half = stats.t.ppf(0.975, 4) * np.std(A, ddof=1) * np.sqrt(1 / 5 + 1 / 4)
    assert found["high"] == pytest.approx(found["mean"] + half)


def test_the_best_has_all_its_runs_and_pairs_are_of_one_seed(capsys: pytest.CaptureFixture[str]) -> None:
    results = {Run("baseline", seed): {"val": accuracy} for seed, accuracy in ((1, 0.5), (2, 0.1), (3, 0.7))}
    results |= {Run("lucky", 1): {"val": 0.6, "test": 0.4}, Run("lucky", 3): {"val": 0.9}}  # its other run failed
    found = summarise(results)
    assert list(found) == ["lucky", "baseline"]
    assert best_candidate(found) == "baseline"
    assert found["lucky"]["val_difference"]["mean"] == pytest.approx(0.15)
    assert found["lucky"]["test"]["mean"] == 0.4
    assert found["lucky"]["runs"] == {"lucky-seed1": {"val": 0.6, "test": 0.4}, "lucky-seed3": {"val": 0.9}}
    print_table(found, Console(soft_wrap=True, width=100))
    assert "+0.1500" in capsys.readouterr().out


def test_predictions_of_folds_are_one_file_in_the_order_of_the_rows(tmp_path: Path) -> None:
    for number, rows in enumerate((["3", "10"], ["1", "2"])):
        with (tmp_path / f"{number}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["row", "text"], *([row, "x" * 200_000 + f"text,\n{row}"] for row in rows)])
    join_folds([tmp_path / "0.csv", tmp_path / "1.csv"], tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(newline="") as file:
        assert [(row["row"], row["text"][-2:]) for row in csv.DictReader(file)] == [
            *(("1", "\n1"), ("2", "\n2"), ("3", "\n3"), ("10", "10"))
        ]
