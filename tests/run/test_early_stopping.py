"""A run that stopped early stays stopped."""

import pytest
from conftest import Capture, Stopped

from lit_bert.cli import main
from lit_bert.modeling.checkpoint import Checkpoint

STOP = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/acc", "--trainer.callbacks.patience=1"]
STOP += ["--model.learning_rate=0", "--trainer.callbacks.mode=max", "--trainer.max_epochs=3"]


@pytest.mark.parametrize(("interval", "steps"), [("1.0", 10), ("2", 4)], ids=["at an epoch's end", "within an epoch"])
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_that_stopped_early_is_not_trained_on_unless_the_callback_is_left_out(
    recipe: str, interval: str, steps: int, stopped: Stopped, capsys: Capture
) -> None:
    cli = main(["fit", "--config", recipe, *STOP, f"--trainer.val_check_interval={interval}"])
    assert cli.trainer.global_step == steps
    why = f"stop     EarlyStopping, after epoch {steps // 10}: Monitored metric val/acc did not improve in the last 1"
    assert why in capsys.readouterr().out
    last = cli.run_dir / "checkpoints" / "last.ckpt"
    assert Checkpoint.read(last).global_step == steps
    for _ in range(2):
        said = stopped(["fit", f"--ckpt_path={last}"])
        assert f"ended after {steps} steps" in said
        assert "or leave out early stopping" in said
    (cli.run_dir / "metrics.json").unlink()  # as if the run had been killed before its test
    again = main(["fit", f"--ckpt_path={last}"])
    assert again.trainer.global_step == steps
    assert "stop     early stopping has ended this run" in capsys.readouterr().out
    if interval == "1.0":
        again = main(["fit", f"--ckpt_path={last}", "--trainer.callbacks=null"])
        assert again.trainer.global_step == 15
        assert again.run_dir == cli.run_dir
