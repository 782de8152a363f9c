"""A campaign of faults: runs of a tiny BERT are disturbed until they have ended, and must end as an undisturbed one.

Prints a table of the faults, how often each was tried and survived, and how many runs ended otherwise than to the last
bit alike; exits with status 1 if any did. It takes about ten minutes on two cores.
"""

import argparse
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

import sabotage
from conftest import make_bert, make_recipe, make_reviews
from equality import equal_runs
from processes import finish, run, start
from rich import box
from rich.console import Console
from rich.table import Table

STEPS = 60
LAST = "checkpoints/last.ckpt"
RECORDS = "provenance*.json", "hparams.yaml", "metrics.json"

VARIANTS: dict[str, list[str]] = {  # settings under which runs are disturbed
    "": [],
    "max_steps": ["--trainer.max_epochs=-1", "--trainer.max_steps=45"],
    "validation within epochs": ["--trainer.val_check_interval=7", "--checkpoint.save_top_k=3"],
    "accumulation": ["--trainer.accumulate_grad_batches=3"],
    "workers": ["--data.num_workers=2"],
    "early stopping": [
        *("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/acc", "--trainer.callbacks.mode=max"),
        *("--trainer.callbacks.patience=1", "--trainer.max_epochs=6", "--model.learning_rate=1e-6"),
    ],
    "average of weights": ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9"],
}


class Campaign:
    """A folder with what a run needs, and the undisturbed runs.

    Args:
        folder: An empty folder, which is the current one.
        seed: Of the moments at which things happen.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.log = folder / "log"
        self.folder = folder
        config = make_recipe(folder / "tiny.yaml", make_bert(folder / "bert"), make_reviews(folder / "reviews", 4))
        self.plain = ["fit", "--config", config, "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1"]
        self.plain += ["--checkpoint_minutes=0.001"]
        self.words = self.plain
        self.whole: dict[tuple[str, int], Path] = {}
        self.seconds: dict[int, float] = {}
        run([*self.plain, f"--trainer.default_root_dir={folder / 'warm'}"], self.log)

    def undisturbed(self, variant: str, ranks: int) -> Path:
        """Set the variant, and return the folder of its undisturbed run, made when it is first asked for."""
        self.words = [*self.plain, *VARIANTS[variant]]
        if (variant, ranks) not in self.whole:
            root = self.folder / f"whole {variant} {ranks}"
            begun = time.monotonic()
            run([*self.words, f"--trainer.default_root_dir={root}"], self.log, ranks)
            self.seconds[ranks] = time.monotonic() - begun
            [self.whole[variant, ranks]] = root.iterdir()
        return self.whole[variant, ranks]

    def again(self) -> list[str]:
        """Return the command that goes on, or begins if there is nothing to go on from."""
        return [*self.words, "--ckpt_path=last"] if Path("runs").exists() else self.words

    def step(self, ranks: int) -> int:
        """Return a random step of training."""
        return self.random.randrange(STEPS // ranks)

    def sent(self, number: int, ranks: int = 1) -> bool:
        """Send a signal to a random rank at a random moment, and return whether the run had not ended before."""
        started = start(self.again(), self.log, ranks)
        time.sleep(self.random.uniform(0, self.seconds[ranks]))
        struck = self.random.choice(started)
        if struck.is_alive():
            os.kill(struck.pid or 0, number)
        return any(finish(started, 30, patience=3))

    def changed(self, change: Callable[[], None], ranks: int = 1) -> bool:
        """Let something go wrong within a process, and return whether it did before the run ended."""
        return any(finish(start(self.again(), self.log, ranks, change), 30, patience=3))

    def damaged(self, how: Callable[[Path, random.Random], None], *names: str) -> bool:
        """Damage files of the runs' folders after a kill: nothing depends on them."""
        struck = self.changed(sabotage.signal_at(self.step(1), signal.SIGKILL))
        for name in names:
            for path in Path("runs").glob(f"*/{name}"):
                how(path, self.random)
        return struck

    def disturb(self, variant: str, ranks: int, tries: int, fault: Callable[["Campaign"], bool]) -> tuple[int, int]:
        """Let a fault happen `tries` times, up to 4 times to a run; return how many runs were lost, of how many."""
        whole = self.undisturbed(variant, ranks)
        lost = runs = 0
        while tries > 0:
            shutil.rmtree("runs", ignore_errors=True)
            runs += 1
            try:
                for _ in range(min(tries, 4)):
                    if not fault(self):
                        break
                    tries -= 1
                run(self.again(), self.log, ranks)
                ended = [path.parent for path in Path("runs").absolute().glob("*/metrics.json")]
                equal_runs(whole, max(ended, key=os.path.getmtime))
            except AssertionError:
                lost += 1
                tries -= 1
                traceback.print_exc()
        return lost, runs


def cut(path: Path, chance: random.Random) -> None:
    """Cut a file short."""
    os.truncate(path, chance.randrange(path.stat().st_size))


def flip(path: Path, chance: random.Random) -> None:
    """Change 16 bytes somewhere in a file."""
    content = bytearray(path.read_bytes())
    start = chance.randrange(max(1, len(content) - 16))
    for place in range(start, min(start + 16, len(content))):
        content[place] ^= chance.randrange(1, 256)
    path.write_bytes(content)


Fault = tuple[int, int, str, Callable[[Campaign], bool]]

FAULTS: dict[str, Fault] = {  # how often, on how many ranks, in which variant, what happens
    "SIGKILL at a random moment": (16, 1, "", lambda it: it.sent(signal.SIGKILL)),
    "SIGKILL while a checkpoint is written": (8, 1, "", lambda it: it.changed(sabotage.killed_while_writing(5))),
    "SIGKILL in the validation": (4, 1, "", lambda it: it.changed(sabotage.signal_in("validation_step", 9, 0))),
    "SIGKILL in the test": (4, 1, "", lambda it: it.changed(sabotage.signal_in("test_step", 9, 0))),
    "SIGKILL in the export": (4, 1, "", lambda it: it.changed(sabotage.killed_while_exporting)),
    **{f"SIGKILL, {name}": (8, 1, name, lambda it: it.sent(signal.SIGKILL)) for name in VARIANTS if name},
    "SIGTERM at a random moment": (8, 1, "", lambda it: it.sent(signal.SIGTERM)),
    "SIGINT at a random moment": (4, 1, "", lambda it: it.sent(signal.SIGINT)),
    "SIGHUP at a random moment": (4, 1, "", lambda it: it.sent(signal.SIGHUP)),
    "disk full": (4, 1, "", lambda it: it.changed(sabotage.at(it.step(1), sabotage.fill_disk))),
    "exception": (4, 1, "", lambda it: it.changed(sabotage.at(it.step(1), sabotage.fail))),
    "loss not finite": (4, 1, "", lambda it: it.changed(sabotage.at(it.step(1), sabotage.overflow))),
    "last.ckpt cut short": (4, 1, "", lambda it: it.damaged(cut, LAST)),
    "last.ckpt with other bytes": (8, 1, "", lambda it: it.damaged(flip, LAST)),
    "records with other bytes": (4, 1, "", lambda it: it.damaged(flip, *RECORDS)),
    "SIGTERM to one rank of 2": (4, 2, "", lambda it: it.sent(signal.SIGTERM, 2)),
    "SIGKILL of one rank of 2": (4, 2, "", lambda it: it.sent(signal.SIGKILL, 2)),
    "exception on one rank of 2": (4, 2, "", lambda it: it.changed(sabotage.at(it.step(2), sabotage.fail, 1), 2)),
}


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the faults whose names contain this (default: all)")
    parser.add_argument("--long", action="store_true", help="try each five times as often")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random moments (default: 1)")
    options = parser.parse_args()
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of what resumed runs replace
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("fault", "times tried", "runs", "ended alike", "lost"):
        table.add_column(title, justify="left" if title == "fault" else "right")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        campaign = Campaign(Path(folder), options.seed)
        for title, (tries, ranks, variant, fault) in FAULTS.items():
            if options.only not in title:
                continue
            sys.stderr.write(f"{title}\n")
            tries *= 5 if options.long else 1
            lost, runs = campaign.disturb(variant, ranks, tries, fault)
            table.add_row(title, str(tries), str(runs), str(runs - lost), str(lost))
            failed += lost
        os.chdir("/")
    Console(highlight=False).print(table)
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
