"""Do explanations find the words that matter? Deleting the top word of a test row beside deleting a random one.

    python benchmarks/explanations.py --model runs/<run>/export

The top word is the one that adds most to the probability of the predicted class. Of each row, both are deleted, each on
its own, and the probability is predicted anew.
"""

import argparse
import random
import statistics
import time


def main() -> None:
    """Explain rows, delete words, and print by how much the probability falls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint, or an exported folder")
    parser.add_argument("--rows", type=int, default=200, help="random rows of the packaged test split (default: 200)")
    options = parser.parse_args()

    from lit_bert import Predictor
    from lit_bert.data import dataset
    from lit_bert.run import openmp

    openmp.limit_threads()
    predict = Predictor(options.model, precision="32-true")
    chosen = random.Random(1)
    texts = chosen.sample(list(dataset.load(dataset.fetch("packaged")[0])["test"]["text"]), options.rows)
    begun = time.perf_counter()
    with openmp.LoadMonitor():
        explanations = predict.explain(texts)
    seconds = time.perf_counter() - begun
    falls: dict[str, list[float]] = {"top word": [], "random word": []}
    for text, why in zip(texts, explanations, strict=True):
        numbers = range(len(why.words))
        deleted = (max(numbers, key=lambda number: why.words[number].score), chosen.choice(numbers))
        answers = predict([_without(text, [word.text for word in why.words], number) for number in deleted])
        for fall, answer in zip(falls.values(), answers, strict=True):
            fall.append(why.score - answer.probs[why.label])
    for name, fall in falls.items():
        print(f"{name:12} probability falls by {statistics.mean(fall):.3f}, changes by {_mean_size(fall):.3f}")
    print(f"top changes more than random in {_share_larger(*falls.values()):.1%} of {len(texts):,} rows")
    errors = [why.error for why in explanations]
    print(f"convergence error {_mean_size(errors):.4f} on average, {max(map(abs, errors)):.4f} at most")
    print(f"{seconds / len(texts):.2f} s a row")


def _without(text: str, words: list[str], number: int) -> str:
    """Return a text without one of its words, found by those before it."""
    end = 0
    for word in words[: number + 1]:
        start = text.index(word, end)
        end = start + len(word)
    return text[:start] + text[end:]


def _mean_size(values: list[float]) -> float:
    return statistics.mean(map(abs, values))


def _share_larger(left: list[float], right: list[float]) -> float:
    return sum(abs(a) > abs(b) for a, b in zip(left, right, strict=True)) / len(left)


if __name__ == "__main__":
    main()
