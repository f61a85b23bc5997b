"""The engine vllm: vLLM in this process (envs/vllm.yaml)."""

from collections.abc import Iterator
from itertools import takewhile

from persuasion_rl.files import read_json
from persuasion_rl.models.lineage import ADAPTER_CONFIG
from persuasion_rl.models.loading import end_tokens, load_tokenizer
from persuasion_rl.sampling.engine import Engine, SamplingSettings, import_library, text_of
from persuasion_rl.sampling.request import Request, Sample

REQUESTS_PER_CALL = 512
"""Requests a call. A kill loses the samples of the call under way, and the progress moves with each call."""
ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, 512)
"""Values that vLLM takes for `max_lora_rank`."""


class Vllm(Engine):
    """Samples with vLLM. Each request has its own seed; vLLM promises no more about reproducibility."""

    _loaded = None

    def sample(self, requests: list[Request]) -> Iterator[tuple[Request, Sample]]:
        for start in range(0, len(requests), REQUESTS_PER_CALL):
            chunk = requests[start : start + REQUESTS_PER_CALL]
            yield from zip(chunk, self._sample_chunk(chunk), strict=True)

    def _sample_chunk(self, requests: list[Request]) -> list[Sample]:
        vllm = import_library("vllm", "snakemake --sdm conda takes envs/vllm.yaml")
        llm, tokenizer, end_tokens, adapter = self._load(vllm)
        settings = self.settings
        prompts = self.text_tokenizer.prompt_ids([request.prompt for request in requests])
        outputs = llm.generate(
            [{"prompt_token_ids": ids} for ids in prompts],
            [
                vllm.SamplingParams(
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    max_tokens=settings.max_new_tokens,
                    seed=self._seed(request),
                    stop_token_ids=end_tokens,
                    detokenize=False,  # it would leave out the marks of reasoning
                    watermarking=False,
                )
                for request in requests
            ],
            use_tqdm=False,
            lora_request=adapter,
        )
        completions = [output.outputs[0] for output in outputs]
        self.progress.add(tokens=sum(len(completion.token_ids) for completion in completions))
        samples = []
        for completion in completions:
            ids = completion.token_ids
            before_end = list(takewhile(lambda id_: id_ not in end_tokens, ids))
            text = text_of(before_end, tokenizer)
            samples.append(self._sample(text, len(ids), completion.finish_reason))
        return samples

    def _load(self, vllm):
        """vLLM's model, the tokenizer, the tokens that end a response, and the adapter; loaded once."""
        if self._loaded is None:
            s = self.settings
            lora_settings, adapter = {}, None
            if s.lineage:
                from vllm.lora.request import LoRARequest

                rank = read_json(s.lineage[-1].parent / ADAPTER_CONFIG)["r"]
                lora_settings = {
                    "enable_lora": True,
                    "max_lora_rank": next(size for size in ADAPTER_RANKS if size >= rank),
                }
                adapter = LoRARequest(s.model, 1, str(s.lineage[-1].parent))
            llm = vllm.LLM(
                str(s.base),
                trust_remote_code=s.trust_remote_code,
                max_num_seqs=s.batch_size,
                generation_config="vllm",  # ignores the repetition penalty that the base model ships with
                **lora_settings,
            )
            tokenizer = load_tokenizer(s.base, s.trust_remote_code)
            self._loaded = llm, tokenizer, _end_tokens(s, tokenizer), adapter
        return self._loaded


def _end_tokens(settings: SamplingSettings, tokenizer) -> list[int]:
    """The tokens that end a response, as in `load_for_inference`."""
    from transformers import AutoConfig, GenerationConfig

    try:
        shipped = GenerationConfig.from_pretrained(settings.base)
    except OSError:  # it has no generation_config.json
        shipped = AutoConfig.from_pretrained(
            settings.base, trust_remote_code=settings.trust_remote_code
        )
    return end_tokens(shipped, tokenizer)


def make(settings: SamplingSettings) -> Vllm:
    return Vllm(settings)
