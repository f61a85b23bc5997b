"""The reasons why a sampled response cannot be used in a pair."""

from persuasion_rl.records import SampledResponse
from persuasion_rl.sampling.request import CUT, STOPPED

MADE = "made"
"""The outcome of a prompt that has a pair of usable responses."""


def faults_of(responses: list[SampledResponse]) -> list[str | None]:
    """The fault of each response of a prompt.

    Returns:
        for each response "cut", "empty", "identical" (to an earlier one of the prompt), another finish reason, or None if it
        can be used.
    """
    faults: list[str | None] = []
    texts = set()
    for response in responses:
        reason = response["finish_reason"]
        if reason != STOPPED:
            faults.append("cut" if reason == CUT else reason)
        elif not response["text"]:
            faults.append("empty")
        else:
            faults.append("identical" if response["text"] in texts else None)
            texts.add(response["text"])
    return faults


def outcome(responses: list[SampledResponse]) -> str:
    """MADE if a prompt has two usable responses, else the first fault among its responses."""
    faults = faults_of(responses)
    return MADE if faults.count(None) > 1 else next(fault for fault in faults if fault)
