"""What happens after each optimizer step: it is shown, logged, measured, saved and drawn, and the run may stop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.device import memory_of_this_run
from fluxbooth.host.folders import Watch
from fluxbooth.host.memory import memory_in_words, memory_shortage
from fluxbooth.host.signals import StoppedOnRequestError, StopRequest
from fluxbooth.training.averages import MovingAverage
from fluxbooth.training.checkpoints import Checkpoints
from fluxbooth.training.evaluation import Evaluation
from fluxbooth.training.loop import StepReport
from fluxbooth.training.prepare import Prepared
from fluxbooth.training.processes import Processes
from fluxbooth.training.progress import Show, Standing
from fluxbooth.training.samples import SampleRounds
from fluxbooth.training.scored_saves import PatienceOutError, ScoredSaves
from fluxbooth.training.smoothing import Recent
from fluxbooth.training.step_log import StepLog

_log = logging.getLogger("fluxbooth")
_to_file = logging.getLogger("fluxbooth.steps")


class AfterStep:
    """Called after each step of one run, in each of its processes; only the first has something to show and write."""

    def __init__(
        self,
        prepared: Prepared,
        processes: Processes,
        first_step: int,
        loss_before: float,
        checkpoints: Checkpoints,
        samples: SampleRounds,
        scored: ScoredSaves,
        average: MovingAverage | None,
        measure: Callable[[], Evaluation],
        log: StepLog | None,
        show: Show | None,
        stop: StopRequest,
        watch: Watch,
    ) -> None:
        """Begin behind `first_step`.

        Args:
            measure: gives the losses on the evaluation set.
            log, show: of the first process; None in the others.
            watch: over the folders that are written to.
        """
        self.done = first_step
        """Optimizer steps done."""
        self._prepared = prepared
        self._processes = processes
        self._loss_before = loss_before
        self._checkpoints = checkpoints
        self._samples = samples
        self._scored = scored
        self._average = average
        self._measure = measure
        self._log = log
        self._show = show
        self._stop = stop
        self._watch = watch
        self._loss = Recent(log.losses if log else ())
        self._seconds, self._samples_seen = Recent(), Recent()
        self._begun = monotonic()

    def __call__(self, report: StepReport) -> None:
        """Do what is due.

        Raises:
            StoppedOnRequestError: when the run is to stop here; its state is saved.
            UserError: when something cannot be written; what was written before stays whole.
            LostProcessError: when another process is gone.
            PatienceOutError: when the scores say that this step is the last; its LoRA file is the run's.
        """
        self.done = report.step
        if self._processes.is_first:
            self._note(report)
            self._require_folders()
        shortage = memory_shortage(self._prepared.recipe.memory_floor)
        stopping = self._stops(bool(shortage)) and report.step < self._prepared.steps
        written = (
            self._checkpoints.after_step(report.step, self._loss_before, stopping) if self._processes.is_first else []
        )
        if stopping:
            why = f"{shortage}: " if shortage else ""
            raise StoppedOnRequestError(
                f"{why}stopped at step {report.step} of {self._prepared.steps}; its state is saved, the same command "
                "goes on"
            )
        self._samples.draw(report.step, stopped=lambda: self._stop.made)
        self._score(report.step, written)
        self._begun = monotonic()

    def _score(self, step: int, written: Sequence[str]) -> None:
        steps, patience = self._prepared.steps, self._prepared.recipe.early_stop_patience
        is_out = self._scored.after_step(step, written, step == steps, stopped=lambda: self._stop.made)
        if patience and self._processes.any(is_out, self._prepared.device) and step < steps:
            _log.info("step %d is the last: %d scored saves were no better", step, patience)
            if self._processes.is_first:
                self._checkpoints.finish(step)
            raise PatienceOutError

    def save(self) -> None:
        """Write the state after the last step that was done. Raises UserError when it cannot be written."""
        if self._processes.is_first:
            self._checkpoints.save(self.done, self._loss_before)

    def _require_folders(self) -> None:
        gone = self._watch.gone()
        if not gone:
            return
        then = "the same command goes on"
        with suppress(UserError, OSError):
            if self._prepared.folders.run(self._prepared.recipe.output_name) not in gone:
                self._checkpoints.save(self.done, self._loss_before)
                then = f"the state of step {self.done} is saved, {then}"
        raise UserError(Problem("is gone", where=str(folder), do=f"Bring it back; {then}") for folder in gone)

    def _stops(self, has_shortage: bool) -> bool:
        return self._processes.any(self._stop.made or has_shortage, self._prepared.device)

    def _note(self, report: StepReport) -> None:
        assert self._log is not None, "the first process has a log"
        assert self._show is not None, "the first process shows its progress"
        if self._average:
            self._average.update(report.step)
        standing = self._standing(report)
        self._show(standing)
        _to_file.info(
            "step %d/%d loss %.5f smoothed_loss %.5f preservation_loss %.5f grad_norm %.4f learning_rate %.3g",
            report.step,
            self._prepared.steps,
            report.loss,
            standing.loss,
            report.preservation_loss,
            report.grad_norm,
            report.learning_rate,
        )
        self._log.step(report, smoothed_loss=standing.loss, seconds_per_sample=standing.seconds_per_sample)
        recipe, steps_per_epoch = self._prepared.recipe, self._prepared.plan.steps_per_epoch
        often = (recipe.validate_every_n_steps, (recipe.validate_every_n_epochs or 0) * steps_per_epoch)
        if any(steps and report.step % steps == 0 for steps in often):
            with self._checkpoints.published():
                self._log.evaluation(report.step, self._measure())

    def _standing(self, report: StepReport) -> Standing:
        plan = self._prepared.plan
        seconds = self._seconds.add(monotonic() - self._begun)
        samples = self._samples_seen.add(sum(map(len, plan.micro_batches(report.step - 1))))
        return Standing(
            report.step,
            math.ceil(report.step / plan.steps_per_epoch),
            math.ceil(self._prepared.steps / plan.steps_per_epoch),
            self._loss.add(report.loss),
            report.learning_rate,
            seconds / samples,
            seconds,
            memory_in_words(memory_of_this_run(self._prepared.device)),
        )
