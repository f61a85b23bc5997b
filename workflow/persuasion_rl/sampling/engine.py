"""What draws samples: transformers on this machine, vLLM, or an OpenAI-compatible server.

An engine is made from the files of a checked lineage, loads what it needs at its first draw, and yields samples as
they end. Requests come in any order; each is drawn once.
"""

import importlib
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError, read_json, text_digest
from persuasion_rl.models.devices import pick_device
from persuasion_rl.models.lineage import ADAPTER_CONFIG, check_lineage
from persuasion_rl.models.loading import load_for_inference, load_tokenizer
from persuasion_rl.runtime.command import note
from persuasion_rl.runtime.keys import VARIABLES, key_for, without_keys
from persuasion_rl.sampling.noise import Limits, Request, Sample, step_seeds
from persuasion_rl.sampling.responses import CUT, FILTERED, REFUSED, REJECTED, STOPPED, UNTOLD

SOME = 0.25
"""The share of a batch that leaves it together."""
AT_ONCE = 2048
"""Requests that vLLM gets in one call: what it has drawn of them is lost if it is killed."""
BODY_WAITS_S = (1, 4, 16, 60)
"""Pauses before a server is asked again whose answer was cut or none of its own, as a proxy's page."""


@dataclass(frozen=True)
class Settings:
    """What an engine is told. `model` is the model's name in the study, which a server knows it by; an endpoint has no
    base and no lineage, and knows it by its own name."""

    base: Path | None
    lineage: list[Path]
    model: str
    limits: Limits
    seed: int
    batch_size: int = 64
    """Requests at a time; changes the speed only."""
    device: str = "auto"
    trust_remote_code: bool = False
    base_url: str | None = None
    digest: str = field(init=False)
    """Of the model."""

    def __post_init__(self):
        digest = text_digest(
            self.model if self.base is None else check_lineage(self.base, self.lineage)
        )
        object.__setattr__(self, "digest", digest)


class Engine(ABC):
    """Draws samples of one model."""

    name: str

    def __init__(self, settings: Settings):
        self.settings = settings

    @abstractmethod
    def draw(self, requests: list[Request]) -> Iterator[tuple[Request, Sample]]:
        """Each request with its sample, as samples end."""

    @property
    def reproducible(self) -> bool:
        """Whether a sample is the same in every batch, shard and order, but for numeric near-ties."""
        return False

    def _key(self, request: Request) -> tuple:
        """What a sample's randomness is a function of."""
        return (
            self.settings.seed,
            self.settings.digest,
            request.prompt_id,
            request.sample,
            request.draw,
        )

    def _seeds(self, request: Request):
        """For our own sampling: one number a step."""
        return step_seeds(self.settings.limits.max_new_tokens, *self._key(request))

    def _seed(self, request: Request) -> int:
        """For an engine with a generator of its own for each request."""
        return int(text_digest(*self._key(request)), 16) % 2**31


def make_engine(name: str, settings: Settings) -> Engine:
    """An engine by its name in the config: transformers, vllm or openai; or endpoint, for a player that is none of the
    study's models."""
    if name == "transformers":
        on_gpu = pick_device(settings.device) == "cuda"
        return ContinuousBatches(settings) if on_gpu else PaddedBatches(settings)
    return {"vllm": Vllm, "openai": Server, "endpoint": Endpoint}[name](settings)


class Transformers(Engine):
    """A model in this process, with noise keyed by the sample."""

    name = "transformers"
    _loaded = None

    @property
    def reproducible(self) -> bool:
        """In half precision, the last bits that depend on the batch decide too often."""
        return pick_device(self.settings.device) == "cpu"

    def _load(self):
        """The model and its tokenizer, loaded once."""
        if self._loaded is None:
            s = self.settings
            self._loaded = load_for_inference(
                s.base, s.lineage, pick_device(s.device), s.trust_remote_code
            )[:2]
        return self._loaded


class PaddedBatches(Transformers):
    """Left-padded batches of prompts of like length, the longest first: for a CPU.

    A prompt that several samples of a batch share is computed once, and responses that have ended leave the batch.
    """

    def draw(self, requests: list[Request]) -> Iterator[tuple[Request, Sample]]:
        waiting = sorted(requests, key=lambda request: len(request.prompt), reverse=True)
        for start in range(0, len(waiting), self.settings.batch_size):
            yield from self._draw(waiting[start : start + self.settings.batch_size])

    def _draw(self, batch: list[Request]) -> Iterator[tuple[Request, Sample]]:
        import numpy as np
        import torch

        model, tokenizer = self._load()
        ids, mask, cache = self._prompts(batch)
        length, limit = ids.shape[1], ids.shape[1] + self.settings.limits.max_new_tokens
        seeds = torch.from_numpy(np.stack([self._seeds(request) for request in batch]))
        seeds = seeds.to(model.device)
        while True:
            ids, cache = self._until_some_end(ids, mask, cache, seeds, length)
            ended = self._ended(ids[:, length:]) | (ids.shape[1] == limit)
            for row in ended.nonzero().flatten().tolist():
                yield batch[row], _read(model, tokenizer, ids[row, length:].tolist())
            if ended.all():
                return
            left = (~ended).nonzero().flatten()
            batch = [batch[row] for row in left.tolist()]
            ids, seeds, mask = ids[left], seeds[left], mask[left]
            cache.batch_select_indices(left)

    def _prompts(self, batch: list[Request]):
        """Token ids and mask of the batch's prompts, and a cache of all but their last token."""
        import torch

        model, tokenizer = self._load()
        texts = list(dict.fromkeys(request.prompt for request in batch))
        inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
        inputs = inputs.to(model.device)
        cache = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True)
        cache = cache.past_key_values
        cache.crop(-1)
        which = torch.tensor([texts.index(request.prompt) for request in batch])
        which = which.to(model.device)
        cache.batch_select_indices(which)
        return inputs["input_ids"][which], inputs["attention_mask"][which], cache

    def _until_some_end(self, ids, mask, cache, seeds, length: int):
        """Go on until some of the rows have ended, or all have as many tokens as the limit lets them."""
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        from persuasion_rl.sampling.noise import KeyedSampling

        model, _ = self._load()
        limits = self.settings.limits

        def enough(ids, scores, **_) -> torch.Tensor:
            ended = self._ended(ids[:, length:])
            return (ended.float().mean() >= SOME).expand(len(ids))

        output = model.generate(
            input_ids=ids,
            attention_mask=torch.nn.functional.pad(mask, (0, ids.shape[1] - length), value=1),
            past_key_values=cache,
            max_new_tokens=length + limits.max_new_tokens - ids.shape[1],
            logits_processor=LogitsProcessorList([KeyedSampling(seeds, length, limits)]),
            stopping_criteria=StoppingCriteriaList([enough]),
            return_dict_in_generate=True,
        )
        return output.sequences, output.past_key_values

    def _ended(self, responses):
        """Which rows have a token that ends a response."""
        import torch

        ends = self._load()[0].generation_config.eos_token_id
        return torch.isin(responses, torch.tensor(ends, device=responses.device)).any(dim=1)


class ContinuousBatches(Transformers):
    """transformers' continuous batching: a place that ends is taken by the next request, and prompts that two
    samples share are computed once. For a GPU."""

    def draw(self, requests: list[Request]) -> Iterator[tuple[Request, Sample]]:
        if not requests:
            return
        model, tokenizer = self._load()
        prompts = tokenizer([request.prompt for request in requests])["input_ids"]
        asked = {str(i): pair for i, pair in enumerate(zip(requests, prompts, strict=True))}
        manager = self._manager(model, asked)
        manager.warmup()
        manager.start()
        try:
            for id_, (_, prompt) in asked.items():
                manager.add_request(prompt, id_, eos_token_id=model.generation_config.eos_token_id)
            left = len(asked)
            while left:
                found = manager.get_result(timeout=1)
                if found is None:
                    if not manager.is_running():
                        raise RuntimeError("continuous batching ended by itself; see above")
                elif found.is_finished():
                    if found.error is not None:
                        raise RuntimeError(f"continuous batching: {found.error}")
                    left -= 1
                    yield (
                        asked[found.request_id][0],
                        _read(model, tokenizer, found.generated_tokens),
                    )
        finally:
            manager.stop(hard_stop=True)
            manager.destroy()

    def _manager(self, model, asked: dict[str, tuple[Request, list[int]]]):
        """Continuous batching whose only logits processor is ours."""
        from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
        from transformers.generation.continuous_batching.cb_logits_processors import (
            ContinuousBatchingLogitsProcessorList,
        )
        from transformers.generation.continuous_batching.utils import WorkloadHints

        from persuasion_rl.sampling.noise import KeyedContinuousSampling

        limits = self.settings.limits
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=limits.max_new_tokens,
            pad_token_id=model.generation_config.pad_token_id,
            eos_token_id=model.generation_config.eos_token_id,
        )
        seeds = {id_: (len(prompt), self._seeds(r)) for id_, (r, prompt) in asked.items()}
        keyed = ContinuousBatchingLogitsProcessorList(
            LogitsProcessorList([KeyedContinuousSampling(seeds, limits)])
        )
        keyed.tensors_required = 1
        manager = model.init_continuous_batching(
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(
                max_requests_per_batch=self.settings.batch_size, **self._memory(model)
            ),
            workload_hints=WorkloadHints(
                max_prompt_length=max(len(prompt) for _, prompt in asked.values()),
                max_generated_length=limits.max_new_tokens,
                num_requests=len(asked),
            ),
        )
        manager.logit_processor = keyed
        return manager

    def _memory(self, model) -> dict[str, Any]:
        """Bounds of the cache: on a GPU a share of what is free, which leaves room for the sampler's sort."""
        if model.device.type == "cuda":
            return {"max_memory_percent": 0.7}
        return {"num_blocks": 4 * self.settings.batch_size, "max_batch_tokens": 1024}


def _read(model, tokenizer, ids: list[int]) -> Sample:
    """A sample from the tokens that follow a prompt, with or without padding after its end."""
    ends = model.generation_config.eos_token_id
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    tokens = len(ids) if end is None else end + 1
    text = tokenizer.decode(ids[:tokens], skip_special_tokens=True).strip()
    return Sample(text, tokens, CUT if end is None else STOPPED)


class Vllm(Engine):
    """vLLM in this process (envs/vllm.yaml). Each request has a seed of its own; vLLM promises no more."""

    name = "vllm"
    _loaded = None

    def draw(self, requests: list[Request]) -> Iterator[tuple[Request, Sample]]:
        for start in range(0, len(requests), AT_ONCE):
            chunk = requests[start : start + AT_ONCE]
            yield from zip(chunk, self._draw(chunk), strict=True)

    def _draw(self, requests: list[Request]) -> list[Sample]:
        vllm = _library("vllm", "snakemake --sdm conda takes envs/vllm.yaml")
        llm, tokenizer, ends, adapter = self._load(vllm)
        limits = self.settings.limits
        prompts = tokenizer([request.prompt for request in requests])["input_ids"]
        outputs = llm.generate(
            [{"prompt_token_ids": ids} for ids in prompts],
            [
                vllm.SamplingParams(
                    temperature=limits.temperature,
                    top_p=limits.top_p,
                    max_tokens=limits.max_new_tokens,
                    seed=self._seed(request),
                    stop_token_ids=ends,
                    watermarking=False,
                )
                for request in requests
            ],
            use_tqdm=False,
            lora_request=adapter,
        )
        drawn = [output.outputs[0] for output in outputs]
        return [Sample(d.text.strip(), len(d.token_ids), d.finish_reason) for d in drawn]

    def _load(self, vllm):
        """The engine, the tokenizer, the tokens that end a response and the adapter, loaded once."""
        if self._loaded is None:
            s = self.settings
            more, adapter = {}, None
            if s.lineage:
                from vllm.lora.request import LoRARequest

                rank = read_json(s.lineage[-1].parent / ADAPTER_CONFIG)["r"]
                allowed = (8, 16, 32, 64, 128, 256, 512)
                more = {
                    "enable_lora": True,
                    "max_lora_rank": next(size for size in allowed if size >= rank),
                }
                adapter = LoRARequest(s.model, 1, str(s.lineage[-1].parent))
            llm = vllm.LLM(
                str(s.base),
                trust_remote_code=s.trust_remote_code,
                max_num_seqs=s.batch_size,
                generation_config="vllm",  # not the base model's own repetition penalty
                **more,
            )
            tokenizer = load_tokenizer(s.base, s.trust_remote_code)
            ends = _ends(s, tokenizer)
            self._loaded = llm, tokenizer, ends, adapter
        return self._loaded


def _ends(settings: Settings, tokenizer) -> list[int]:
    """What ends a response, as `load_for_inference` has it: EOS, and what else the base model ships with."""
    from transformers import AutoConfig, GenerationConfig

    try:
        shipped = GenerationConfig.from_pretrained(settings.base)
    except OSError:  # it has no generation_config.json
        trust = settings.trust_remote_code
        shipped = AutoConfig.from_pretrained(settings.base, trust_remote_code=trust)
    ends = shipped.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return sorted({tokenizer.eos_token_id, *(end for end in ends if end is not None)})


class Server(Engine):
    """A server that speaks OpenAI's completions and serves the study's models under their names.

    It gets a seed for each request, and may ignore it. That its models are the ones that are here cannot be seen
    from here: they have the same names.
    """

    name = "openai"
    _hint = (
        "it must serve the study's models under their names (vLLM: --served-model-name,"
        " --lora-modules)"
    )

    def draw(self, requests: list[Request]) -> Iterator[tuple[Request, Sample]]:
        """A request that the server rejects has an empty sample that says so. Whatever else goes wrong, the requests
        under way are waited for and yielded before it is a UserError."""
        client = self._connect()
        failures: list[UserError] = []
        rejected: list[str] = []

        def ask(request: Request) -> Sample | None:
            if failures:
                return None
            try:
                return self._ask(client, request)
            except _Rejected as error:
                rejected.append(str(error))
                return Sample("", 0, error.reason)
            except UserError as error:
                failures.append(error)
                return None

        with ThreadPoolExecutor(self.settings.batch_size) as pool:
            waiting = {pool.submit(ask, request): request for request in requests}
            try:
                for done in as_completed(waiting):
                    if (sample := done.result()) is not None:
                        yield waiting[done], sample
            finally:
                pool.shutdown(cancel_futures=True)
        if rejected:
            note(f"{self._who}: rejected {len(rejected)} of the requests, the first: {rejected[0]}")
        if failures:
            raise failures[0]

    @property
    def _who(self) -> str:
        return f"engine {self.name}, {self.settings.base_url}"

    def _connect(self):
        """The official client, which tries again what may pass: 408, 409, 429, 5xx, no connection."""
        openai = self._openai
        base_url = self.settings.base_url
        key = key_for("openai", base_url, self._who)
        return openai.OpenAI(api_key=key or "none", base_url=base_url, max_retries=5)

    @property
    def _openai(self):
        return _library("openai", "pip install -e '.[openai]'")

    def _ask(self, client, request: Request) -> Sample:
        """
        Raises:
            _Rejected: this request has no answer. UserError: no request would have one, or not now.
        """
        for wait_s in (*BODY_WAITS_S, None):
            try:
                body = self._send(client, request)
            except self._openai.OpenAIError as error:
                raise self._named(error) from None
            try:
                return self._read(json.loads(body))
            except (ValueError, KeyError, IndexError, TypeError, AttributeError):
                if wait_s is not None:
                    time.sleep(wait_s)
        raise UserError(
            f"{self._who}: answers what is no completion ({_one_line(body)!r}); what was drawn is kept"
        )

    def _named(self, error) -> Exception:
        """What an error of the client means."""
        status = getattr(error, "status_code", None)
        said = _one_line(str(error))
        if status in (401, 403):
            return UserError(
                f"{self._who}: does not accept the key in {VARIABLES['openai']}, or there is none: {said}"
            )
        if status == 404:
            return UserError(
                f"{self._who}: knows no model {self.settings.model!r}; {self._hint}: {said}"
            )
        if status is None or status in (402, 408, 409, 425, 429) or status >= 500:
            return UserError(f"{self._who}: {said}; what was drawn is kept")
        filtered = getattr(error, "code", None) == FILTERED
        return _Rejected(said, FILTERED if filtered else REJECTED)

    def _send(self, client, request: Request) -> str:
        """The body of the server's answer."""
        ask = client.completions.with_raw_response.create
        return ask(prompt=request.prompt, **self._limits(request)).http_response.text

    def _read(self, answer: dict) -> Sample:
        """A sample from the JSON of a body; what a refused one says is not kept."""
        choice = answer["choices"][0]
        text, reason = self._said(choice)
        text = "" if reason in (FILTERED, REFUSED) else without_keys(text.strip())
        tokens = (answer.get("usage") or {}).get("completion_tokens")
        if not isinstance(tokens, int):
            tokens = self._count(text) + (reason == STOPPED)
        return Sample(text, tokens, without_keys(reason))

    def _said(self, choice: dict) -> tuple[str, str]:
        """Text and finish reason."""
        return choice["text"] or "", choice.get("finish_reason") or UNTOLD

    def _count(self, text: str) -> int:
        """A text's tokens, where the server does not count them."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.settings.base, self.settings.trust_remote_code)
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    _tokenizer = None

    def _limits(self, request: Request) -> dict[str, Any]:
        limits = self.settings.limits
        return {
            "model": self.settings.model,
            "temperature": limits.temperature,
            "top_p": limits.top_p,
            "max_tokens": limits.max_new_tokens,
            "seed": self._seed(request),
        }


class Endpoint(Server):
    """A server that speaks OpenAI's chat completions; a request's prompt is a conversation, as JSON."""

    name = "endpoint"
    _hint = "see evaluation.other_players"

    def _send(self, client, request: Request) -> str:
        ask = client.chat.completions.with_raw_response.create
        return ask(messages=json.loads(request.prompt), **self._limits(request)).http_response.text

    def _said(self, choice: dict) -> tuple[str, str]:
        message = choice["message"]
        if message.get("refusal"):
            return "", REFUSED
        return message.get("content") or "", choice.get("finish_reason") or UNTOLD

    def _count(self, text: str) -> int:
        """Words and marks: its tokenizer is not here."""
        return len(re.findall(r"\w+|[^\w\s]", text))


class _Rejected(Exception):
    """A request that the server does not take, while it may take others. `reason` is its finish reason."""

    def __init__(self, said: str, reason: str):
        super().__init__(said)
        self.reason = reason


def _one_line(said: str) -> str:
    """What a server said, short and without a key."""
    return " ".join(without_keys(said).split())[:300]


def _library(name: str, how: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"sampling.engine: the package {name} is not installed; {how}") from None
