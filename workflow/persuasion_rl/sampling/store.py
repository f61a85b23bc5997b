"""Samples that outlive a killed job, so that a rerun samples only what is missing."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from persuasion_rl.files import text_digest
from persuasion_rl.models.lineage import settings_digest
from persuasion_rl.runtime.command import note
from persuasion_rl.sampling.engine import Engine
from persuasion_rl.sampling.request import REJECTED, Request, Sample
from persuasion_rl.study.code import module_digests
from persuasion_rl.study.names import ENGINE_MODULES


class SampleStore:
    """An engine's samples as JSON lines, in a folder of `state`.

    The name of the folder is a digest of all that the samples depend on: the engine, its code, whether it is reproducible,
    the model with its tokenizer and configuration, the seed, the limits. The address counts for an endpoint, but not for
    the engine openai, which serves the study's own models.

    Every process writes its own file and reads all files of the folder. So shards of any size share their samples, no
    two jobs write to one file, and nothing follows a line that a kill cut off. A request that a server rejected has no
    sample here: the next process asks again.
    """

    def __init__(self, state: Path, engine: Engine):
        settings = engine.settings
        server = {
            "openai": (settings.model,),
            "endpoint": (settings.model, settings.base_url),
        }.get(engine.name)
        code = module_digests(ENGINE_MODULES[engine.name])
        base_settings = settings.base and settings_digest(settings.base)
        self._engine = engine
        self._folder = state / text_digest(
            engine.model_digest, settings.seed, settings.limits, engine.name, engine.reproducible,
            server, base_settings, *code,
        )  # fmt: skip
        files = sorted(file for file in self._folder.glob("*.jsonl") if file.is_file())
        self.kept = {key: sample for file in files for key, sample in _read_samples(file)}
        self._own_file = self._folder / f"{len(files):05}-{os.uname().nodename}-{os.getpid()}.jsonl"

    def sample(self, requests: list[Request]) -> Iterator[tuple[Request, Sample]]:
        """Yield each request with its sample: first the kept samples, then new ones, which are kept as they come."""
        keys = {request: text_digest(*vars(request).values()) for request in requests}
        missing = []
        for request, key in keys.items():
            if key in self.kept:
                yield request, self.kept[key]
            else:
                missing.append(request)
        if not missing:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        progress = self._engine.progress
        progress.begin(len(missing))
        with self._own_file.open("a", encoding="utf-8") as lines:
            for request, sample in self._engine.sample(missing):
                if sample.finish_reason != REJECTED:
                    self.kept[keys[request]] = sample
                    lines.write(json.dumps([keys[request], *vars(sample).values()]) + "\n")
                    lines.flush()
                progress.add(done=1)
                yield request, sample
        progress.end()


def _read_samples(file: Path) -> Iterator[tuple[str, Sample]]:
    """The keys of requests and their samples, without broken or cut-off lines."""
    broken = 0
    with file.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                sample = _read_sample(line)
                if sample is None:
                    broken += 1
                else:
                    yield sample
    if broken:
        note(f"{file}: {broken} broken line(s), whose samples are drawn again")


def _read_sample(line: bytes) -> tuple[str, Sample] | None:
    """The key of a request and its sample; None for a broken line, such as a power cut leaves."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    match row:
        case [str(key), str(text), int(tokens), str(reason)]:
            return key, Sample(text, tokens, reason)
    return None
