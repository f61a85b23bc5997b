"""Samples that outlive a killed job, so that a rerun draws only what is missing."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from persuasion_rl.files import text_digest
from persuasion_rl.sampling.engine import Engine
from persuasion_rl.sampling.noise import Request, Sample
from persuasion_rl.sampling.responses import REJECTED
from persuasion_rl.study.code import module_digests


class SampleStore:
    """An engine's samples as JSON lines, in a folder of `state` named by all that they depend on: the engine and its
    code, whether it is reproducible, the model, the seed, the limits. The server of the engine openai may move, for
    the model is the study's; an endpoint at another address is another one.

    Every process writes a file of its own and reads all that are there. So shards of any size share their samples,
    no two jobs write to one file, and nothing follows a line that a kill cut off. A request that a server rejected
    is asked again by the next process: it has no sample, and the server may be mended.
    """

    def __init__(self, state: Path, engine: Engine):
        s = engine.settings
        server = {"openai": (s.model,), "endpoint": (s.model, s.base_url)}.get(engine.name)
        code = module_digests("sampling.engine")
        drawer = (engine.name, engine.reproducible, server, *code)
        self._engine = engine
        self._folder = state / text_digest(s.digest, s.seed, s.limits, *drawer)
        there = sorted(self._folder.glob("*.jsonl"))
        self.kept = {key: sample for file in there for key, sample in _lines(file)}
        name = f"{len(there):05}-{os.uname().nodename}-{os.getpid()}.jsonl"
        self._own = self._folder / name

    def draw(self, requests: list[Request]) -> Iterator[tuple[Request, Sample]]:
        """Each request with its sample: those that are kept, then the others as they are drawn and kept."""
        keys = {request: text_digest(*vars(request).values()) for request in requests}
        there = {request: self.kept[key] for request, key in keys.items() if key in self.kept}
        yield from there.items()
        missing = [request for request in requests if request not in there]
        if not missing:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._own.open("a", encoding="utf-8") as lines:
            for request, sample in self._engine.draw(missing):
                if sample.finish_reason != REJECTED:
                    self.kept[keys[request]] = sample
                    lines.write(json.dumps([keys[request], *vars(sample).values()]) + "\n")
                    lines.flush()
                yield request, sample


def _lines(file: Path) -> Iterator[tuple[str, Sample]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                key, *sample = json.loads(line)
                yield key, Sample(*sample)
