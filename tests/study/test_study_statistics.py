import csv
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from lit_bert.study.space import Run
from lit_bert.study.statistics import best_candidate, mean_interval, paired_difference, print_table, summarise
from lit_bert.study.study import join_folds

A = [0.781, 0.790, 0.775, 0.802, 0.779]
B = [0.790, 0.801, 0.779, 0.801, 0.795]


def test_intervals_and_p_are_those_of_scipy() -> None:
    keys = [(seed, None) for seed in range(5)]
    found = mean_interval(dict(zip(keys, A, strict=True)))
    low, high = stats.t.interval(0.95, len(A) - 1, loc=np.mean(A), scale=stats.sem(A))
    assert (found["mean"], found["sd"]) == (pytest.approx(np.mean(A)), pytest.approx(np.std(A, ddof=1)))
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    difference = paired_difference(dict(zip(keys, B, strict=True)), dict(zip(keys, A, strict=True)))
    test = stats.ttest_rel(B, A)
    assert difference["p"] == pytest.approx(test.pvalue)
    ends = test.confidence_interval(0.95)
    assert (difference["low"], difference["high"]) == (pytest.approx(ends.low), pytest.approx(ends.high))


def test_a_single_run_has_no_interval() -> None:
    assert mean_interval({(1, None): 0.5}) == {"mean": 0.5, "sd": None, "low": None, "high": None}
    assert paired_difference({(1, None): 0.5}, {(1, None): 0.25})["p"] is None
    assert paired_difference({(1, None): 0.5}, {(2, None): 0.25}) is None


def test_scores_of_folds_do_not_count_as_independent() -> None:
    scores = {(seed, fold): A[fold] + seed / 100 for seed in (1, 2) for fold in range(5)}
    found = mean_interval(scores)
    assert (found["mean"], found["sd"]) == (pytest.approx(np.mean(A) + 0.015), pytest.approx(np.std(A, ddof=1)))
    half = stats.t.ppf(0.975, 4) * np.std(A, ddof=1) * np.sqrt(1 / 5 + 1 / 4)
    assert found["high"] == pytest.approx(found["mean"] + half)


def test_the_best_is_one_with_all_its_runs() -> None:
    runs = {name: [Run(name, seed) for seed in (1, 2)] for name in ("baseline", "lucky")}
    del runs["lucky"][1]
    assert best_candidate(runs, {"baseline-seed1": 0.5, "baseline-seed2": 0.6, "lucky-seed1": 0.9}) == "baseline"


def test_the_best_comes_first_and_pairs_are_of_one_seed(capsys: pytest.CaptureFixture[str]) -> None:
    runs = {name: [Run(name, seed) for seed in (1, 2, 3)] for name in ("baseline", "better")}
    del runs["better"][1]  # that run failed
    val = dict(zip(("baseline-seed1", "baseline-seed2", "baseline-seed3"), (0.5, 0.1, 0.7), strict=True))
    val |= {"better-seed1": 0.6, "better-seed3": 0.9}
    found = summarise(runs, val, {"better-seed1": 0.4})
    assert list(found) == ["better", "baseline"]
    assert found["better"]["val_difference"]["mean"] == pytest.approx(0.15)
    assert found["better"]["test"]["mean"] == 0.4
    assert found["better"]["runs"]["better-seed3"] == {"val": 0.9, "test": None}
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
