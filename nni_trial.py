"""Being a trial of an NNI experiment; without one, NNI need not even be installed."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from distributed import on_main, rank
from progress import REPORTED

RUNS = Path("runs") / "nni"  # of all experiments; relative to the trial's code
TURN = 30  # seconds that a trial waits for the one before it to ask for its parameters


@dataclass(frozen=True)
class Trial:
    """The trial that this process is. Of several processes only rank 0 talks to NNI."""

    experiment: str
    trial: str
    parameters: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Its run folder, where --output names none."""
        return RUNS / self.experiment / self.trial

    @property
    def notes(self) -> dict[str, Any]:
        """What the run folder says of it."""
        return {"nni": asdict(self)}

    def again(self, output: Path) -> dict[str, Any]:
        """How to start where this trial ran before: `nnictl resume` starts it once more.

        NNI may come with other parameters then; what was learnt with the old ones has to go.
        """
        environment = json.loads((output / "environment.json").read_text(encoding="utf-8"))
        same = environment.get("nni") == self.notes["nni"]
        return {"resume": "auto"} if same else {"overwrite": True}

    def stopped(self) -> NoReturn:
        """End as a stopped trial ends: of a signal. NNI takes an exit code for a failure, also of
        a trial that its assessor stopped."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("SIGINT's default action ends the process")

    def link(self, output: Path) -> None:
        """A link `run` to the run folder, in NNI's own folder of the trial."""
        link = Path(os.environ["NNI_OUTPUT_DIR"]) / "run"
        link.unlink(missing_ok=True)
        link.symlink_to(output.absolute())

    def report(self, row: Mapping[str, float]) -> None:
        """Tell NNI of an epoch."""
        if rank() == 0:
            import nni

            nni.report_intermediate_result(nni_metrics(row))

    def finish(self, row: Mapping[str, float]) -> None:
        """Tell NNI the result: the best epoch."""
        if rank() == 0:
            import nni

            nni.report_final_result(nni_metrics(row))


def current_trial() -> Trial | None:
    """The trial that NNI started this process as; None where it did not."""
    if "NNI_PLATFORM" not in os.environ:
        return None
    return on_main(_ask_nni)


def _ask_nni() -> Trial:
    import nni

    with _in_turn(Path(os.environ["NNI_OUTPUT_DIR"]).parent, nni.get_sequence_id()):
        parameters = nni.get_next_parameter() or {}
    return Trial(nni.get_experiment_id(), nni.get_trial_id(), parameters)


@contextmanager
def _in_turn(folder: Path, number: int) -> Iterator[None]:
    """Wait, for a while, until trial `number` - 1 has asked for its parameters.

    NNI 3.0 hands parameters out in the order in which trials ask, not by trial: of two that start
    together, the web page would else show each with the other's. Trials tell each other in
    `folder`; on other machines they cannot, and there the page may be wrong (the tuner never is).
    """
    give_up = time.monotonic() + TURN
    while number > 0 and not (folder / f".asked-{number - 1}").exists():
        if os.environ["NNI_PLATFORM"] != "local" or time.monotonic() > give_up:
            break
        time.sleep(0.05)
    yield
    (folder / f".asked-{number}").touch()


def nni_metrics(row: Mapping[str, float]) -> dict[str, float]:
    """What NNI gets of an epoch: `default`, which it maximizes, is SRCC on validation.

    An undefined correlation (constant scores) is reported as -1, the worst there is.
    """
    values = {name: -1.0 if math.isnan(row[name]) else row[name] for name in REPORTED}
    return {"default": values["srcc"], "plcc": values["plcc"], "accuracy": values["accuracy"]}
