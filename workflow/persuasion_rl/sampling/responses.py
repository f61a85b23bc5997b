"""Samples and keeps responses to prompts; those with faults are sampled again."""

from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError
from persuasion_rl.models.devices import prepare_torch
from persuasion_rl.records import SampledResponse
from persuasion_rl.runtime.command import note
from persuasion_rl.sampling.engine import SamplingSettings
from persuasion_rl.sampling.faults import faults_of
from persuasion_rl.sampling.make import make_engine
from persuasion_rl.sampling.request import REJECTED, Request, Sample
from persuasion_rl.sampling.store import SampleStore
from persuasion_rl.study.names import SERVED


def sample_responses(
    sampling: SamplingSettings,
    state: Path,
    prompts: dict[str, str],
    responses: int = 1,
    redraws: int = 0,
) -> tuple[dict[str, list[SampledResponse]], dict[str, Any]]:
    """Sample `responses` responses to each prompt; those with faults again, up to `redraws` times.

    A request that a server rejected is not sent again.

    Args:
        state: the folder that keeps samples (`SampleStore`).
        prompts: prompt id -> text.
    Returns:
        prompt id -> its responses; and the metadata of their origin: model_digest, engine, reproducible.
    Raises:
        UserError: a server rejected every request.
    """
    prepare_torch(
        sampling.threads, sampling.seed, "cpu" if sampling.engine in SERVED else sampling.device
    )
    engine = make_engine(sampling)
    store = SampleStore(state, engine)
    numbers = range(1, responses + 1)
    requests = [
        Request(prompt_id, prompt, number)
        for prompt_id, prompt in prompts.items()
        for number in numbers
    ]
    sampled: dict[tuple[str, int], SampledResponse] = {}
    by_prompt: dict[str, list[SampledResponse]] = {}
    while requests:
        for request, sample in store.sample(requests):
            sampled[request.prompt_id, request.sample_number] = _as_response(request, sample)
        by_prompt = {
            prompt_id: [sampled[prompt_id, number] for number in numbers] for prompt_id in prompts
        }
        requests = [
            Request(prompt_id, prompts[prompt_id], number, attempt=response["draws"])
            for prompt_id, of_prompt in by_prompt.items()
            for number, response, fault in zip(
                numbers, of_prompt, faults_of(of_prompt), strict=True
            )
            if fault not in (None, REJECTED) and response["draws"] <= redraws
        ]
    if prompts and not store.kept:
        raise UserError("the server rejected every request; what it said stands in the line above")
    final = [response for of_prompt in by_prompt.values() for response in of_prompt]
    if reasoned := sum("reasoning" in response for response in final):
        note(f"cut the model's reasoning off {reasoned:,} of {len(final):,} responses")
    origin = {
        "model_digest": engine.model_digest,
        "engine": engine.name,
        "reproducible": engine.reproducible,
    }
    return by_prompt, origin


def _as_response(request: Request, sample: Sample) -> SampledResponse:
    response = {**vars(sample), "text": sample.reply, "draws": request.attempt + 1}
    return response | ({"reasoning": sample.reasoning} if sample.reasoning else {})
