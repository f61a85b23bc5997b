"""How prompts and responses become token ids: the one place, for data, training, sampling, measures and judges.

What people wrote cannot become a control token, however they spell it. The tokenizer is loaded with its control tokens
renamed to what no text holds (NUL), and only the frame that a chat template writes is given these names. So a prompt is
read as a whole, as the tokenizer reads it anywhere else.
"""

import json
import re
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer

from persuasion_rl.files import UserError, read_json
from persuasion_rl.prompts.templates import (
    read_format,
    special_tokens,
    spelling,
    tokenizer_config,
)
from persuasion_rl.prompts.wording import task

SEAM = "\x00|\x00"
"""A token of our own, before a response: a text's first word may be read in another way where nothing stands before it."""
ODD = re.compile("[\x00\ud800-\udfff]")
"""What no tokenizer takes, and what control tokens are renamed to. `text.readable` leaves none of it."""
ENDS = "word|1|end.|end. |?!)||\n|\t|…|> *q*|é| |\u00a0|\u3000".split("|")
STARTS = ("Poster: a", "Other: b", "[TASK]\nc", "Persuadee: 1")
"""Ends and beginnings of lines of every kind that a pre-tokenizer tells apart."""
ACROSS_LINES = re.compile(r"[\nĊ][A-Za-z\[]")
"""An entry of a vocabulary that a line's end and the next line's beginning share; Ċ is how byte-level ones write "\\n"."""


class TextError(UserError):
    """A text that cannot be tokenized. `number` is its place among those that were given, from 0."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class TextTokenizer:
    """A base model's tokenizer with a form of prompts; it needs no transformers.

    Attributes:
        folder: where it and what lies beside it are.
        format: the `PromptFormat`.
        bos: the ids that begin a plain prompt; a chat template writes its own.
        eos: the id that ends a response.
        controls: the ids of control tokens: all added tokens that are more than white space.
        unknown: the id for what the vocabulary cannot spell, or None where it can spell everything.

    Args:
        base: the folder of the base model, or its tokenizer.json; configuration and chat template lie beside it.
        prompt_format: "plain" or "chat".

    Raises:
        UserError: there is no tokenizer.json, it cannot be read, or the chat template cannot be served.
    """

    def __init__(self, base: Path, prompt_format: str = "plain"):
        self.folder = base.parent if base.suffix == ".json" else base
        self._file = base if base.suffix == ".json" else base / "tokenizer.json"
        if not self._file.is_file():
            raise UserError(
                f"{self._file} does not exist; AutoTokenizer.from_pretrained(...).save_pretrained(...)"
                " writes one for any fast tokenizer"
            )
        self.format = read_format(self.folder, prompt_format)
        content = read_json(self._file)
        if not isinstance(content, dict) or "vocab" not in (content.get("model") or ()):
            raise UserError(f"{self._file}: not a tokenizer (it has no vocabulary)")
        added = self._added_tokens(content)
        self._renamed = {
            token["content"]: f"\x00{number}\x00"
            for number, token in enumerate(added)
            if _is_control(token["content"])
        }
        if not self._keeps_names(content):
            for token in added:
                token["normalized"] &= token["content"] not in self._renamed
        self._tokenizer = self._load(_renamed(content, added, self._renamed))
        ids = {text: self._tokenizer.token_to_id(name) for text, name in self._renamed.items()}
        self._refuse_other_ids(added, ids)
        unknown = content["model"].get("unk_token")
        if isinstance(content["model"].get("vocab"), list):
            self.unknown = content["model"].get("unk_id")
        else:
            self.unknown = self._tokenizer.token_to_id(self._renamed.get(unknown, unknown or ""))
        self._eos = ids.get(special_tokens(self.folder).get("eos_token"))
        self.controls = frozenset(ids.values()) - ({self.unknown} - {self._eos})
        self.bos = self._learned_bos() if self.format.name == "plain" else []
        refuse_unembedded(self.folder, self._tokens())
        self._tokenizer.add_special_tokens([AddedToken(SEAM, normalized=False)])

    def _load(self, content: dict[str, Any]) -> Tokenizer:
        try:
            return Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # tokenizers raises this very class
            raise UserError(f"{self._file}: not a tokenizer ({error})") from None

    def _keeps_names(self, content: dict[str, Any]) -> bool:
        """Whether the normalizer leaves NUL in a text. BERT's does not: the name of a control token would be a mere digit."""
        alone = {"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}
        normalizer = self._load({**content, **alone}).normalizer
        name = "\x000\x00"
        return normalizer is None or name in normalizer.normalize_str(name)

    def _added_tokens(self, content: dict[str, Any]) -> list[dict[str, Any]]:
        """The added tokens of a tokenizer.json, and those that only the files beside it name, by their ids."""
        config = tokenizer_config(self.folder)
        added = {token["content"]: token for token in content.get("added_tokens") or ()}
        vocabulary = content["model"]["vocab"]
        if isinstance(vocabulary, list):
            vocabulary = {piece: number for number, (piece, _) in enumerate(vocabulary)}
        beside = {
            spelling(token): int(number)
            for number, token in config.get("added_tokens_decoder", {}).items()
        }
        if (self.folder / "added_tokens.json").is_file():
            beside = read_json(self.folder / "added_tokens.json") | beside
        named = {*special_tokens(self.folder).values()}
        for key in ("additional_special_tokens", "extra_special_tokens"):
            more = config.get(key) or ()
            named |= {
                spelling(token) for token in (more.values() if isinstance(more, dict) else more)
            }
        beside |= {text: vocabulary[text] for text in named - beside.keys() if text in vocabulary}
        for text, number in sorted(beside.items(), key=lambda pair: pair[1]):
            if text not in added:
                plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
                added[text] = {"id": number, "content": text, "special": True, **plain}
        return list(added.values())

    def _refuse_other_ids(self, added: list[dict[str, Any]], ids: dict[str, int]) -> None:
        for token in added:
            if ids.get(token["content"], token["id"]) != token["id"]:
                raise UserError(
                    f"{self._file}: the added token {token['content']!r} has the id {token['id']}, and by its place"
                    f" {ids[token['content']]}; save the tokenizer again"
                )

    def _tokens(self) -> dict[str, int]:
        """The tokens that texts, frames and their ends can have.

        Models need not embed the other control tokens: the small Gemma 3 has none for images, which its tokenizer knows.
        """
        names = {name: text for text, name in self._renamed.items()}
        framed = {*self.frame_controls, self._eos}
        return {
            names.get(name, name): number
            for name, number in self._tokenizer.get_vocab().items()
            if number in framed or number not in self.controls
        }

    def _learned_bos(self) -> list[int]:
        """What the tokenizer puts in front of a text; what it would put behind it, no prompt may have.

        The file alone says it: transformers too ignores `add_bos_token` of the configuration beside it.
        """
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        framed = self._tokenizer.encode("a").ids
        place = next(
            place for place in range(len(framed)) if framed[place : place + len(bare)] == bare
        )
        return framed[:place]

    @property
    def eos(self) -> int:
        """The id that ends a response.

        Raises:
            UserError: there is none, so that no response could end.
        """
        if self._eos is None:
            raise UserError(
                f"{self.folder}: its tokenizer has no EOS token, so no response could end; name one in"
                " tokenizer_config.json (eos_token)"
            )
        return self._eos

    # Ids

    def prompt_ids(self, prompts: list[str]) -> list[list[int]]:
        """The ids of rendered prompts, with BOS where the tokenizer has one, and never with EOS behind.

        Raises:
            TextError: a text is not of the format, or holds a character that no tokenizer takes.
        """
        framed = [self._framed(prompt, number) for number, prompt in enumerate(prompts)]
        return [[*self.bos, *ids] for ids in self._ids(framed)]

    def response_ids(self, responses: list[str], ended: bool = True) -> list[list[int]]:
        """The ids of responses, each as it stands behind its prompt, with EOS where it is `ended`.

        Raises:
            TextError: a text holds a character that no tokenizer takes. UserError: the tokenizer has no EOS.
        """
        end = [self.eos] if ended else []
        return [[*ids, *end] for ids in self._responses(responses)]

    def reads_alike(self, prompt: str, ids: list[int]) -> bool:
        """Whether the tokenizer as it is shipped makes of a prompt's text these ids too, with what it adds."""
        return self._shipped.encode(prompt).ids == ids

    @cached_property
    def _shipped(self) -> Tokenizer:
        return Tokenizer.from_file(str(self._file))

    @cached_property
    def frame_controls(self) -> list[int]:
        """The control tokens of every prompt, in their order."""
        frame = self._rename(self.format.before) + "a" + self._rename(self.format.after)
        return self.controls_in(self.bos + self._ids([frame])[0])

    def controls_in(self, ids: list[int]) -> list[int]:
        return [id_ for id_ in ids if id_ in self.controls]

    def _framed(self, prompt: str, number: int) -> str:
        """A prompt with the control tokens of its frame renamed."""
        _refuse_odd(prompt, number)
        before, after = self.format.before, self.format.after
        if self.format.name == "plain":
            return prompt
        fits = len(prompt) >= len(before) + len(after)
        if not (fits and prompt.startswith(before) and prompt.endswith(after)):
            raise TextError(
                f"the prompt is not by the chat template of {self.folder}: {prompt[:60]!r}...; was the template or"
                " data.prompt_format changed?",
                number,
            )
        middle = prompt.removeprefix(before).removesuffix(after)
        return self._rename(before) + middle + self._rename(after)

    def _rename(self, frame: str) -> str:
        """Text that a chat template wrote, with the names of its control tokens; plain text has none."""
        if self.format.name == "plain":
            return frame
        return self._spellings.sub(lambda match: self._renamed[match[0]], frame)

    @cached_property
    def _spellings(self) -> re.Pattern:
        longest_first = sorted(filter(None, self._renamed), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def _ids(self, texts: list[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _responses(self, responses: list[str]) -> list[list[int]]:
        for number, response in enumerate(responses):
            _refuse_odd(response, number)
        return [ids[1:] for ids in self._ids([SEAM + response for response in responses])]

    # Lengths

    def response_counts(self, responses: list[str]) -> list[int]:
        """The number of tokens of responses, each with its EOS."""
        return [len(ids) + 1 for ids in self._responses(responses)]

    def frame_tokens(self, source: str, words: int | None = None) -> int:
        """The tokens of a prompt besides those of its context, BOS included. For `words` see `wording.task`."""
        whole = self.format.render("a", source, words)
        return len(self.prompt_ids([whole])[0]) - len(self._ids(["a\n"])[0])

    def context_counts(self, contexts: list[list[str]], source: str) -> list[int]:
        """The tokens that contexts add to the frame of a prompt.

        A context is a list of parts, each of which ends with a line. If the tokenizer never reads across a line's end,
        that is a sum over the parts, and a part that many contexts share is counted once.
        """
        frame = self.frame_tokens(source)
        if not self.divides_at_lines:
            prompts = [self.format.render("".join(parts)[:-1], source) for parts in contexts]
            return [len(ids) - frame for ids in self.prompt_ids(prompts)]
        tail = (self.format.between + task(source))[1:] + self._rename(self.format.after)
        framed = [[*parts, tail] for parts in contexts]
        if tail.startswith("\n"):
            ends = {parts[-1]: parts[-1] + tail for parts in contexts}
            framed = [[*parts[:-1], ends[parts[-1]]] for parts in contexts]
        framed = [[self._rename(self.format.before), *parts] for parts in framed]
        parts = list(dict.fromkeys(chain.from_iterable(framed)))
        tokens = dict(zip(parts, map(len, self._ids(parts)), strict=True))
        frame -= len(self.bos)
        return [sum(map(tokens.__getitem__, each)) - frame for each in framed]

    @cached_property
    def divides_at_lines(self) -> bool:
        """Whether tokens end where lines do: no entry of the vocabulary reads across, and none is read otherwise there."""
        if any(map(ACROSS_LINES.search, self._tokenizer.get_vocab())):
            return False
        before = self._rename(self.format.before)
        ends = [before, *(f"{end}\n" for end in ENDS)]
        pairs = [(end, start) for end in ends for start in STARTS]
        joined, first, second = (
            [len(ids) for ids in self._ids(texts)]
            for texts in (
                [one + other for one, other in pairs],
                *map(list, zip(*pairs, strict=True)),
            )
        )
        return joined == [one + other for one, other in zip(first, second, strict=True)]

    def encode(self, texts: list[str]) -> list[Encoding]:
        """The tokens of texts, with their positions in them."""
        return self._tokenizer.encode_batch(texts, add_special_tokens=False)


def refuse_unembedded(base: Path, tokens: dict[str, int]) -> None:
    """UserError if the model in a folder embeds fewer tokens than the highest id of these; if it is not there, nothing."""
    content = read_json(base / "config.json") if (base / "config.json").is_file() else None
    content = content if isinstance(content, dict) else {}
    embedded = (content.get("text_config") or content).get("vocab_size")
    token, highest = max(tokens.items(), key=lambda entry: entry[1])
    if isinstance(embedded, int) and highest >= embedded:
        raise UserError(
            f"{base}: its tokenizer has the token {token!r} with the id {highest}, and the model embeds {embedded} tokens"
            " (vocab_size in config.json): take the tokenizer that belongs to the model"
        )


def _is_control(text: str) -> bool:
    """Whether an added token is a control token: not one of white space only ("▁" is SentencePiece's space)."""
    return bool(text) and not text.replace("▁", " ").isspace()


def _renamed(
    content: dict[str, Any], added: list[dict[str, Any]], renamed: dict[str, str]
) -> dict[str, Any]:
    """The content of a tokenizer.json with its control tokens under other names, and with the same ids.

    They are renamed in the vocabulary of the model too, or the model itself would find them in a text.
    """
    model = dict(content["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in vocabulary]
    else:
        model["vocab"] = {renamed.get(text, text): number for text, number in vocabulary.items()}
    if model.get("merges"):
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [
            [one, other] for one, other in pairs if not renamed.keys() & {one, other, one + other}
        ]
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
    return {
        **content,
        "model": model,
        "added_tokens": [
            {**token, "content": renamed.get(token["content"], token["content"])} for token in added
        ],
        "truncation": None,
        "padding": None,
    }


def _refuse_odd(text: str, number: int) -> None:
    if odd := ODD.search(text):
        raise TextError(
            f"the text has the character {odd[0]!r}, which no tokenizer takes: {text[:60]!r}...",
            number,
        )
