"""Draws samples with llama.cpp, by the package llama-cpp-python: one of the ways of generation.py."""

import ctypes
from collections import deque
from pathlib import Path

import llama_cpp


class Llama:
    """A model in a GGUF file that samples from the tempered nucleus, several responses at once.

    A prompt is computed once for all of its responses. When they have ended, the next prompt takes their places.
    """

    def __init__(
        self, file: Path, at_once: int, longest: int, new: int, limits: dict, threads: int
    ):
        """
        Args:
            at_once: responses at a time. longest: tokens of the longest prompt. new: those of a response at most.
            limits: temperature and top_p.
        """
        self.new, self.at_once = new, at_once
        llama_cpp.llama_backend_init()
        self._silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silent, None)
        options = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), options)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = at_once * (longest + new)
        options.n_batch, options.n_ubatch, options.n_seq_max = options.n_ctx, 512, at_once
        options.n_threads = options.n_threads_batch = threads
        options.kv_unified = True
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.samplers = [self._sampler(seed, **limits) for seed in range(at_once)]
        self.batch = llama_cpp.llama_batch_init(options.n_batch, 0, at_once)

    def _sampler(self, seed: int, temperature: float, top_p: float) -> ctypes.c_void_p:
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for part in (
            llama_cpp.llama_sampler_init_temp(temperature),
            llama_cpp.llama_sampler_init_top_p(top_p, 1),
            llama_cpp.llama_sampler_init_dist(seed),
        ):
            llama_cpp.llama_sampler_chain_add(chain, part)
        return chain

    def sample(self, prompts: list[list[int]], responses: int) -> list[int]:
        """Draw responses to prompts of token ids; the number of tokens of each."""
        waiting, free = deque(sorted(prompts, key=len, reverse=True)), deque(range(self.at_once))
        tokens: list[int] = []
        logits_at: dict[int, int] = {}  # sequence -> where the batch has its last token's logits
        length: dict[int, int] = {}  # of prompt and response
        drawn: dict[int, int] = {}
        while waiting or logits_at:
            self._draw(logits_at, length, drawn, tokens, free)
            while waiting and len(free) >= responses:
                prompt, sequences = waiting.popleft(), [free.popleft() for _ in range(responses)]
                for position, token in enumerate(prompt):
                    last = self._add(token, position, sequences, position == len(prompt) - 1)
                logits_at |= dict.fromkeys(sequences, last)  # they draw from the same logits
                length |= dict.fromkeys(sequences, len(prompt))
                drawn |= dict.fromkeys(sequences, 0)
            if logits_at:
                self._decode()
        return tokens

    def _draw(self, logits_at, length, drawn, tokens, free) -> None:
        """A token for each sequence with logits; the batch then holds those of the sequences that go on."""
        picked = {
            sequence: llama_cpp.llama_sampler_sample(self.samplers[sequence], self.context, place)
            for sequence, place in logits_at.items()
        }
        logits_at.clear()
        self.batch.n_tokens = 0
        for sequence, token in picked.items():
            drawn[sequence] += 1
            ended = llama_cpp.llama_vocab_is_eog(self.vocabulary, token)
            if ended or drawn[sequence] == self.new:
                tokens.append(drawn[sequence])
                llama_cpp.llama_memory_seq_rm(self.memory, sequence, -1, -1)
                free.append(sequence)
            else:
                logits_at[sequence] = self._add(token, length[sequence], [sequence], True)
                length[sequence] += 1

    def _add(self, token: int, position: int, sequences: list[int], wants_logits: bool) -> int:
        place = self.batch.n_tokens
        self.batch.token[place], self.batch.pos[place] = token, position
        self.batch.n_seq_id[place] = len(sequences)
        for number, sequence in enumerate(sequences):
            self.batch.seq_id[place][number] = sequence
        self.batch.logits[place] = wants_logits
        self.batch.n_tokens += 1
        return place

    def _decode(self) -> None:
        if status := llama_cpp.llama_decode(self.context, self.batch):
            raise RuntimeError(f"llama_decode: {status}")
