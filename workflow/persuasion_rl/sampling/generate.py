"""Lets a model answer prompts: two responses or more a prompt for a preference pool, one for the evaluation."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import indent

from persuasion_rl.files import UserError, read_jsonl, write_jsonl, write_text
from persuasion_rl.models.devices import prepare_torch
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.sampling.engine import Engine, Settings, make_engine
from persuasion_rl.sampling.noise import Limits, Request, Sample
from persuasion_rl.sampling.responses import REJECTED, faults, outcome
from persuasion_rl.sampling.store import SampleStore
from persuasion_rl.study.names import SERVED


@dataclass(frozen=True)
class Drawn:
    """A sample and the request that it was drawn for."""

    request: Request
    sample: Sample

    def told(self) -> dict:
        """A response of a shard's row."""
        return {**vars(self.sample), "draws": self.request.draw + 1}


def respond_to_pool(
    *,
    base: Path,
    prompts: Path,
    output: Path,
    state: Path,
    start: int,
    rows: int,
    responses: int,
    redraws: int,
    seed: int,
    threads: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    batch_size: int,
    model: str,
    engine: str = "transformers",
    base_url: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    lineage: list[Path] = [],
) -> dict[str, int]:
    """Sample `responses` responses to each of the prompts `start` to `start + rows` (a shard of a pool).

    One row: {"prompt", "responses": [{"text", "tokens", "finish_reason", "draws"}, ...], "metadata": {...,
    "model_digest", "engine", "reproducible"}}. A response that is empty, cut, or equal to an earlier one of its prompt
    is drawn again up to `redraws` times, then left as it is: `gather_pool` counts it out. So is one that a server
    refused, by its finish reason.

    Args:
        state: where samples outlive a killed job. model, base_url: for the engine openai.
    """
    prepare_torch(threads, seed, "cpu" if engine in SERVED else device)
    pool = list(read_jsonl(prompts))[start : start + rows]
    if not pool:  # the plan was larger than the data
        write_jsonl(output, [])
        return {}
    limits = Limits(temperature, top_p, max_new_tokens)
    used = make_engine(
        engine,
        Settings(
            base, lineage, model, limits, seed, batch_size, device, trust_remote_code, base_url
        ),
    )
    wanted = {row["metadata"]["prompt_id"]: row["prompt"] for row in pool}
    drawn = _draw_usable(SampleStore(state, used), wanted, responses, redraws)
    origin = {"model_digest": used.settings.digest} | _promise(used)
    made = [
        {
            "prompt": row["prompt"],
            "responses": [one.told() for one in drawn[row["metadata"]["prompt_id"]]],
            "metadata": row["metadata"] | origin,
        }
        for row in pool
    ]
    write_jsonl(output, made)
    counts = Counter(outcome(row["responses"]) for row in made)
    note(f"{output.name}: {dict(counts)}")
    return dict(counts)


def _promise(engine: Engine) -> dict:
    return {"engine": engine.name, "reproducible": engine.reproducible}


def _draw_usable(
    store: SampleStore, prompts: dict[str, str], responses: int, redraws: int
) -> dict[str, list[Drawn]]:
    """The samples of each prompt (id -> text), the faulty ones drawn again within bounds.

    Raises:
        UserError: a server rejected every request that it ever got.
    """
    drawn: dict[tuple[str, int], Drawn] = {}
    numbers = range(1, responses + 1)
    wanted = [Request(id_, prompt, number) for id_, prompt in prompts.items() for number in numbers]
    while wanted:
        for request, sample in _watched(store, wanted):
            drawn[request.prompt_id, request.sample] = Drawn(request, sample)
        found = {id_: [drawn[id_, number] for number in numbers] for id_ in prompts}
        wanted = [
            replace(one.request, draw=one.request.draw + 1)
            for ones in found.values()
            for one, fault in zip(ones, faults([one.told() for one in ones]), strict=True)
            if fault not in (None, REJECTED) and one.request.draw < redraws
        ]
    if not store.kept:
        raise UserError("the server rejected every request; what it said stands in the line above")
    return found


def _watched(store: SampleStore, requests: list[Request]):
    """Samples as they are drawn, with a progress bar."""
    from tqdm import tqdm

    what = "draws" if requests[0].draw == 0 else "redraws"
    return tqdm(store.draw(requests), total=len(requests), desc=what, unit="sample")


def respond_to_evaluation(
    *,
    prompts: Path,
    output: Path,
    state: Path,
    seed: int,
    threads: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    batch_size: int,
    model: str,
    base: Path | None = None,
    engine: str = "transformers",
    base_url: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    lineage: list[Path] = [],
    first: int | None = None,
    to_read: Path | None = None,
) -> int:
    """Sample one response a prompt, nothing drawn again. A reply that a server refused is an empty text with its
    finish reason.

    One row: {"prompt", "response", "metadata": {..., "finish_reason", "tokens", "model_digest", "engine",
    "reproducible"}}. Where a row has "asked" (`player_prompts`), that is what the model gets. Arguments as those of
    `respond_to_pool`; the engine endpoint has no base.

    Args:
        first: only so many prompts. to_read: the same as Markdown.
    """
    prepare_torch(threads, seed, "cpu" if engine in SERVED else device)
    limits = Limits(temperature, top_p, max_new_tokens)
    used = make_engine(
        engine,
        Settings(
            base, lineage, model, limits, seed, batch_size, device, trust_remote_code, base_url
        ),
    )
    pool = list(read_jsonl(prompts))[:first]
    wanted = {row["metadata"]["prompt_id"]: row.get("asked", row["prompt"]) for row in pool}
    drawn = _draw_usable(SampleStore(state, used), wanted, responses=1, redraws=0)
    origin = {"model_digest": used.settings.digest} | _promise(used)
    rows = []
    for row in pool:
        told = drawn[row["metadata"]["prompt_id"]][0].told()
        metadata = (
            row["metadata"] | {key: told[key] for key in ("finish_reason", "tokens")} | origin
        )
        rows.append({"prompt": row["prompt"], "response": told["text"], "metadata": metadata})
    if to_read is not None:
        write_text(to_read, _readable(model, rows))
    return write_jsonl(output, rows)


def _readable(model: str, rows: list[dict]) -> str:
    """Prompts and responses as Markdown; indented, so that no text of theirs is markup."""
    parts = [f"# {model}: replies to {len(rows)} held-out prompts"]
    for row in rows:
        told = row["metadata"]
        parts += [
            f"## {told['prompt_id']}",
            indent(row["prompt"].rstrip(), "    ", lambda line: True),
            f"{told['tokens']} tokens, {told['finish_reason']}:",
            indent(row["response"], "    ", lambda line: True),
        ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    stage(respond_to_pool, respond_to_evaluation)
