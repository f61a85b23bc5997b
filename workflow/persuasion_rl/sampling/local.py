"""The engine transformers: a model in this process, in padded batches on a CPU and continuous batches on a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from persuasion_rl.models.devices import pick_device
from persuasion_rl.models.following import follow
from persuasion_rl.models.loading import load_for_inference
from persuasion_rl.models.plain import (
    plain_log_probs,
    refuse_beyond_positions,
    refuse_difference,
    token_log_probs,
)
from persuasion_rl.runtime.command import note
from persuasion_rl.sampling.engine import Engine, SamplingSettings, text_of
from persuasion_rl.sampling.request import CUT, STOPPED, Request, Sample

if TYPE_CHECKING:
    from persuasion_rl.sampling.batches import Batch

LEAVING_SHARE = 0.25
"""The share of ended responses at which they leave a padded batch."""
COMPARED_STEPS = 8
"""Tokens that are generated at the start, to be compared with the plain model."""


class LocalEngine(Engine):
    """A model in this process. Noise keyed by the sample decides its tokens (`sampling.noise`)."""

    _loaded = None
    _compared = False

    @property
    def reproducible(self) -> bool:
        """True on a CPU. In half precision, bits that depend on the batch decide too often."""
        return pick_device(self.settings.device) == "cpu"

    def load(self):
        """The model and its tokenizer, loaded once."""
        from persuasion_rl.models.linear import pack

        if self._loaded is None:
            s = self.settings
            model, tokenizer, _ = load_for_inference(
                s.base, s.lineage, pick_device(s.device), s.trust_remote_code
            )
            pack(model)
            self._loaded = model, tokenizer
        return self._loaded

    @property
    def _compared_steps(self) -> int:
        return min(COMPARED_STEPS, self.settings.max_new_tokens)

    def _refuse_beyond_positions(self, longest_prompt: list[int]) -> None:
        """UserError if the model has no positions for the longest prompt with a response."""
        tokens = len(longest_prompt) + self.settings.max_new_tokens
        refuse_beyond_positions(self.load()[0], tokens)

    def _to_sample(self, ids: list[int]) -> Sample:
        """A sample from the tokens that follow a prompt, with or without padding after its end."""
        model, tokenizer = self.load()
        end_tokens = model.generation_config.eos_token_id
        end = next((place for place, token in enumerate(ids) if token in end_tokens), None)
        tokens = len(ids) if end is None else end + 1
        if self.progress.total_tokens is not None:
            self.progress.total_tokens -= self.settings.max_new_tokens - tokens
        text = text_of(ids[:end], tokenizer)
        return self._sample(text, tokens, CUT if end is None else STOPPED)

    def _step_seeds(self, request: Request):
        """The seeds of a response's steps: (max_new_tokens,) int32."""
        from persuasion_rl.sampling.noise import step_seeds

        return step_seeds(self.settings.max_new_tokens, *self._key(request))


class PaddedBatches(LocalEngine):
    """Left-padded batches, the longest prompts first: for a CPU.

    A prompt with several samples is computed once, alone and without padding. Where enough responses of a batch have ended,
    they leave it, and the next prompts take their places.
    """

    def sample(self, requests: list[Request]) -> Iterator[tuple[Request, Sample]]:
        waiting = sorted(requests, key=lambda request: (-len(request.prompt), request.prompt))
        if requests and not self._compared:
            self._compare_with_plain(waiting[0], waiting[-1])
            self._compared = True
            follow(self.load()[0], self.progress)
        prompts = self.text_tokenizer.prompt_ids(list({r.prompt for r in requests}))
        most = sum(map(len, prompts)) + len(requests) * self.settings.max_new_tokens
        self.progress.begin(self.progress.total, most)
        yield from self._samples(deque(waiting))

    def _samples(self, waiting: deque[Request]) -> Iterator[tuple[Request, Sample]]:
        from persuasion_rl.sampling.batches import join

        end_tokens = self.load()[0].generation_config.eos_token_id
        parts: list = []
        while waiting or parts:
            batch = join(self._with_next(parts, waiting))
            self._generate_until_some_end(batch)
            ended = batch.has_ended(batch.ids, end_tokens)
            ended |= batch.steps == self.settings.max_new_tokens
            for row in ended.nonzero().flatten().tolist():
                yield batch.requests[row], self._to_sample(batch.response(row))
            parts = [] if ended.all() else [(batch, (~ended).nonzero().flatten())]

    def _with_next(self, parts: list, waiting: deque[Request]) -> list:
        """Parts for `batches.join`, with as many of the waiting requests as there is room for; those are removed."""
        import torch

        free = self.settings.batch_size - sum(len(rows) for _, rows in parts)
        while free and waiting and all(batch.takes_others for batch, _ in parts):
            requests = [waiting.popleft()]
            while len(requests) < free and waiting and waiting[0].prompt == requests[0].prompt:
                requests.append(waiting.popleft())
            batch = self._prefilled(requests)
            parts = [*parts, (batch, torch.arange(len(requests), device=batch.ids.device))]
            free -= len(requests)
        return parts

    def _prefilled(self, requests: list[Request]) -> Batch:
        """The batch of a prompt's requests before their first tokens."""
        import numpy as np
        import torch

        from persuasion_rl.sampling.batches import Batch
        from persuasion_rl.sampling.cache import roomy_cache

        model, _ = self.load()
        (prompt,) = self.text_tokenizer.prompt_ids([requests[0].prompt])
        ids = torch.tensor([prompt], device=model.device)
        mask, cache = torch.ones_like(ids), roomy_cache(model.config)
        # Without the last token from the beginning: sliding caches cannot be cropped.
        if len(prompt) > 1:
            model.generate(
                ids[:, :-1], attention_mask=mask[:, :-1], past_key_values=cache, max_new_tokens=1
            )
            cache.batch_repeat_interleave(len(requests))
        rows = len(requests)
        seeds = torch.from_numpy(np.stack([self._step_seeds(request) for request in requests]))
        starts = torch.full((rows,), len(prompt), device=model.device)
        return Batch(
            requests,
            ids.repeat(rows, 1),
            mask.repeat(rows, 1),
            starts,
            seeds.to(model.device),
            cache,
        )

    def _generate_until_some_end(self, batch: Batch) -> None:
        """Generate until a share of the rows has ended or one has reached the limit."""
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        from persuasion_rl.sampling.noise import KeyedSampling

        model, _ = self.load()
        limits, end_tokens = self.settings.limits, model.generation_config.eos_token_id

        def enough_have_ended(ids, scores, **_) -> torch.Tensor:
            ended = batch.has_ended(ids, end_tokens)
            return (ended.float().mean() >= LEAVING_SHARE).expand(len(ids))

        sampling = KeyedSampling(batch.seeds, batch.starts, limits)
        output = model.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            past_key_values=batch.cache,
            max_new_tokens=limits.max_new_tokens - int(batch.steps.max()),
            logits_processor=LogitsProcessorList([sampling]),
            stopping_criteria=StoppingCriteriaList([enough_have_ended]),
            return_dict_in_generate=True,
        )
        new = output.sequences.shape[1] - batch.ids.shape[1]
        batch.ids, batch.cache = output.sequences, output.past_key_values
        batch.mask = torch.nn.functional.pad(batch.mask, (0, new), value=1)

    def _compare_with_plain(self, longest: Request, shortest: Request) -> None:
        """Compare some greedy steps in a batch that a row has left with the plain model's (`models.plain`)."""
        import torch

        from persuasion_rl.sampling.batches import join

        model, _ = self.load()
        self._refuse_beyond_positions(*self.text_tokenizer.prompt_ids([longest.prompt]))
        first = self._prefilled([longest, longest])
        rows = torch.tensor([1], device=first.ids.device)
        second = [(self._prefilled([shortest]), rows - 1)] if first.takes_others else []
        batch = join([(first, rows), *second])
        output = model.generate(
            input_ids=batch.ids, attention_mask=batch.mask, past_key_values=batch.cache, max_new_tokens=self._compared_steps,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        length, end_tokens = batch.ids.shape[1], model.generation_config.eos_token_id
        own, plain = [], []
        for row, logits in enumerate(torch.stack(output.logits, dim=1)):
            tokens = output.sequences[row, length:]
            ends = [place for place, token in enumerate(tokens.tolist()) if token in end_tokens]
            steps = ends[0] + 1 if ends else len(tokens)
            own.append(token_log_probs(logits[:steps], tokens[:steps]))
            prompt = batch.ids[row][batch.mask[row].bool()].tolist()
            plain.append(plain_log_probs(model, prompt + tokens[:steps].tolist(), steps))
        refuse_difference("sampling", model, own, plain)


class ContinuousBatches(LocalEngine):
    """transformers' continuous batching: for a GPU.

    When a response ends, the next request takes its place. A prompt with several samples is computed once.
    """

    _padded: PaddedBatches | None = None

    def sample(self, requests: list[Request]) -> Iterator[tuple[Request, Sample]]:
        if not requests:
            return
        model, _ = self.load()
        prompts = self.text_tokenizer.prompt_ids([request.prompt for request in requests])
        if not self._compared:
            ends = max(prompts, key=len), min(prompts, key=len)
            if reason := _why_padded(model) or self._compare_with_plain(*ends):
                note(f"{model.config.model_type}: samples in padded batches, since {reason}")
                self._padded = PaddedBatches(self.settings)
                self._padded._loaded, self._padded.progress = self._loaded, self.progress
            self._compared = True
            self.progress.begin(self.progress.total)
        if self._padded is not None:
            yield from self._padded.sample(requests)
            return
        by_id = {str(i): pair for i, pair in enumerate(zip(requests, prompts, strict=True))}
        manager = self._manager(model, by_id)
        manager.warmup()
        manager.start()
        try:
            end_tokens = model.generation_config.eos_token_id
            for id_, (_, prompt) in by_id.items():
                manager.add_request(prompt, id_, eos_token_id=end_tokens)
            unfinished = len(by_id)
            while unfinished:
                output = manager.get_result(timeout=1)
                if output is None:
                    if not manager.is_running():
                        raise RuntimeError("continuous batching ended by itself; see above")
                elif output.is_finished():
                    if output.error is not None:
                        raise RuntimeError(f"continuous batching: {output.error}")
                    unfinished -= 1
                    request, _ = by_id[output.request_id]
                    self.progress.add(tokens=len(output.generated_tokens))
                    yield request, self._to_sample(output.generated_tokens)
        finally:
            manager.stop(hard_stop=True)
            manager.destroy()

    def _manager(self, model, by_id: dict[str, tuple[Request, list[int]]]):
        """A manager of continuous batching whose only logits processor is `KeyedContinuousSampling`."""
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
        seeds = {
            id_: (len(prompt), self._step_seeds(request))
            for id_, (request, prompt) in by_id.items()
        }
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
                max_prompt_length=max(len(prompt) for _, prompt in by_id.values()),
                max_generated_length=limits.max_new_tokens,
                num_requests=len(by_id),
            ),
        )
        manager.logit_processor = keyed
        return manager

    def _compare_with_plain(self, longest: list[int], shortest: list[int]) -> str | None:
        """Compare some greedy steps after two prompts with the plain model's (`models.plain`).

        Returns:
            Why continuous batches cannot compute this model at all; None if they can.
        """
        import torch
        from transformers import ContinuousBatchingConfig, GenerationConfig

        self._refuse_beyond_positions(longest)
        model, prompts = self.load()[0], [longest, shortest]
        ends = {
            name: getattr(model.generation_config, name)
            for name in ("pad_token_id", "eos_token_id")
        }
        outputs = model.generate_batch(
            prompts,
            GenerationConfig(do_sample=False, max_new_tokens=self._compared_steps, **ends),
            ContinuousBatchingConfig(
                max_requests_per_batch=2,
                return_logprobs=True,
                use_cuda_graph=False,
                num_blocks=16
                * (1 + len(longest) // 256),  # little: the batches' own cache comes after it
                max_batch_tokens=1024,
            ),
            warmup=False,
        ).values()
        if errors := [output.error for output in outputs if output.error is not None]:
            return f"continuous batches end over it ({' '.join(errors[0].split())})"
        tokens = [output.generated_tokens for output in outputs]
        plain = [
            plain_log_probs(model, p + t, len(t)) for p, t in zip(prompts, tokens, strict=True)
        ]
        own = [torch.tensor(output.logprobs, device=model.device) for output in outputs]
        refuse_difference("sampling", model, own, plain)
        return None

    def _memory(self, model) -> dict[str, Any]:
        """Bounds of the cache: on a GPU a share of free memory, which leaves room for the sampler's sort."""
        if model.device.type == "cuda":
            return {"max_memory_percent": 0.7}
        return {"num_blocks": 4 * self.settings.batch_size, "max_batch_tokens": 1024}


def _why_padded(model) -> str | None:
    """What transformers' continuous batches would leave out of a model; None is nothing."""
    if getattr(model.config, "attn_logit_softcapping", None) is not None:
        return "continuous batches have no soft caps"
    if not model._supports_attention_backend:
        return "continuous batches do not know its attention"
    return None


def make(settings: SamplingSettings) -> LocalEngine:
    on_gpu = pick_device(settings.device) == "cuda"
    return ContinuousBatches(settings) if on_gpu else PaddedBatches(settings)
