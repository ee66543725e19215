"""What happened to requests, taken in for the predictions of those that follow.

Owns how long answers are taken to be, and which prefills are looked at because they are under way for longer than was
predicted. What is learnt lies in the Predictions and, as each instance's pace, in the LoadLedger.
"""

from collections.abc import Mapping

from memserve.core.clock import Clock
from memserve.core.enums import Phase
from memserve.core.ids import InstanceId, RequestId
from memserve.scheduler.flight import Flight
from memserve.scheduler.load import LoadLedger
from memserve.scheduler.overruns import Overruns
from memserve.scheduler.predictions import Predictions
from memserve.wire.messages import RequestReport

_FIRST_OUTPUT_GUESS = 128
_OUTPUT_MEMORY = 0.05
"""Least weight of the newest answer in the running mean of answer lengths; the first guess counts as one answer."""


class Lessons:
    def __init__(self, *, predictions: Predictions, load: LoadLedger, clock: Clock) -> None:
        self._predictions = predictions
        self._load = load
        self._clock = clock
        self._overruns = Overruns(clock)
        self.output_tokens = float(_FIRST_OUTPUT_GUESS)
        """Running mean of reported answer lengths; what a request is taken to produce."""
        self._num_answers = 0

    def begun(self, request: RequestId, *, prompt_tokens: int, held_tokens: int, prefill_s: float) -> None:
        """An instance with nothing else to do computes the prompt from now on, for as long as this by the terms."""
        if self._predictions.may_overrun(prompt_tokens=prompt_tokens, held_tokens=held_tokens):
            self._overruns.look_in(prefill_s, request)

    def prefilled(self, flight: Flight) -> None:
        """The prompt is computed; it tells nothing when the instance had something else to do."""
        if flight.first is None or flight.started is None:
            return
        instance = flight.first.instance
        self._predictions.prefilled(
            instance,
            prompt_tokens=flight.asked.num_tokens,
            held_tokens=flight.held_tokens,
            seconds=self._clock.now() - flight.started,
        )
        self._set_pace(instance)

    def answered(self, report: RequestReport) -> None:
        """How long answers are, from an instance that produced one, what its steps and moving blocks take."""
        for moved in report.moved:
            self._predictions.moved(moved)
        if report.phase is not Phase.PREFILL and report.output_tokens > 0:
            self._num_answers += 1
            weight = max(_OUTPUT_MEMORY, 1 / (self._num_answers + 1))
            self.output_tokens += weight * (report.output_tokens - self.output_tokens)
            batch, context_tokens = self._load.decoding(report.instance)
            self._predictions.answered(report, batch=batch, context_tokens=context_tokens)

    def look_at_overruns(self, flights: Mapping[RequestId, Flight]) -> None:
        """What takes longer than predicted tells something before it is over."""
        for request in self._overruns.due():
            flight = flights.get(request)
            if flight is None or flight.first is None or flight.started is None or flight.prefilled:
                continue
            seconds = self._clock.now() - flight.started
            self._predictions.computing_still(
                prompt_tokens=flight.asked.num_tokens, held_tokens=flight.held_tokens, seconds=seconds
            )
            self._set_pace(flight.first.instance)
            self._overruns.look_in(seconds, request)

    def _set_pace(self, instance: InstanceId) -> None:
        pace = self._predictions.computing
        self._load.set_pace(instance, pace.own(instance), usual=pace.usual)

    def __repr__(self) -> str:
        return f"Lessons({self._num_answers} answers of {self.output_tokens:.0f} tokens, {self._overruns})"
