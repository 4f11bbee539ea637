"""The limits of what a store accepts: outputs of a step, the result of a run, answers to waits.

The limits are checked before the write. So an output that is too large fails its step, and the run goes on
as its playbook says. The texts are JSON in ASCII, so their length is their number of bytes. Large values are
measured before their texts are written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from noetl.executor.errors import NotJsonError, PayloadTooLargeError, RejectedError
from noetl.executor.model.json_length import TooLongError
from noetl.executor.model.large_json import is_large
from noetl.executor.model.stored_json import encode_within_limit, exceeds
from noetl.planner.frozen import frozen


@frozen
class PayloadLimits:
    """The limits of a store, in bytes of JSON.

    `payload_bytes` limits the outputs of a step and the result of a run, `answer_bytes` an answer to a wait.
    """

    payload_bytes: int = 64 * 1024 * 1024
    answer_bytes: int = 1024 * 1024

    def check_outputs(self, texts: Iterable[str | None]) -> None:
        """Check the outputs of a commit as JSON: saved names, result, progress and batch results.

        >>> PayloadLimits(payload_bytes=3).check_outputs(["[1]", None])
        >>> PayloadLimits(payload_bytes=3).check_outputs(["[1]", "2"])
        Traceback (most recent call last):
        noetl.executor.errors.PayloadTooLargeError: the outputs of the step exceed 3 bytes of JSON

        Raises:
            PayloadTooLargeError: together they exceed `payload_bytes`.
        """
        if sum(len(text) for text in texts if text is not None) > self.payload_bytes:
            raise self._too_large_outputs()

    def measure_outputs(self, values: Iterable[Any]) -> None:
        """Check the outputs of a commit before they are written as JSON. What is small is not counted.

        Raises:
            PayloadTooLargeError: the large ones together exceed `payload_bytes`.
            TypeError, ValueError, RecursionError: JSON cannot represent them.
        """
        if _exceed(values, self.payload_bytes):
            raise self._too_large_outputs()

    def _too_large_outputs(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(f"the outputs of the step exceed {self.payload_bytes:,} bytes of JSON")

    def check_result(self, result: str, errors: str) -> None:
        """Check the result and the errors of a run as JSON.

        Raises:
            PayloadTooLargeError: together they exceed `payload_bytes`.
        """
        if len(result) + len(errors) > self.payload_bytes:
            raise self._too_large_result()

    def measure_result(self, result: Any, errors: Any) -> None:
        """Check the result and the errors of a run before they are written as JSON.

        Raises:
            PayloadTooLargeError: together they exceed `payload_bytes`.
        """
        if _exceed((result, errors), self.payload_bytes):
            raise self._too_large_result()

    def _too_large_result(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(f"the result of the run exceeds {self.payload_bytes:,} bytes of JSON")

    def encode_answer(self, answer: Any) -> str:
        """Return an answer as JSON.

        Raises:
            RejectedError: `too_large`.
        """
        try:
            return encode_within_limit(answer, self.answer_bytes)
        except TooLongError:
            message = f"the answer exceeds {self.answer_bytes:,} bytes of JSON"
            raise RejectedError("too_large", message) from None


def _exceed(values: Iterable[Any], limit: int) -> bool:
    """Return whether the JSON of large values has more bytes than a limit. Small values do not count."""
    large = [value for value in values if is_large(value)]
    # The values are measured as one list, which also has brackets and commas.
    return bool(large) and exceeds(large, limit + len(large) + 1)


class UnstorableOutputs:
    """The errors of a block that encodes outputs of a step as JSON. They become NotJsonError."""

    def __enter__(self) -> None: ...

    def __exit__(self, type: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, TypeError | ValueError | RecursionError):
            raise NotJsonError(f"an output of the step cannot be written as JSON: {error}") from None


REJECT_UNSTORABLE_OUTPUTS = UnstorableOutputs()
"""Use as `with REJECT_UNSTORABLE_OUTPUTS:` around the encoding."""
