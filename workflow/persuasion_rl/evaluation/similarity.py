"""How near in meaning a player's replies are to the human winning ones, by a sentence-embedding model."""

import math
from pathlib import Path

from persuasion_rl.evaluation.players import read_players
from persuasion_rl.files import UserError, read_json, write_jsonl
from persuasion_rl.models.devices import pick_device, prepare_torch
from persuasion_rl.runtime.command import note, stage

BATCH = 32


def compare_with_human(
    *,
    model: str,
    responses: Path,
    human: Path,
    output: Path,
    seed: int,
    threads: int,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> None:
    """Write a row a reply: {"prompt_id", "conversation_id", "similarity": cosine with the human reply}.

    Args:
        model: folder or Hub name of a model whose sentence embedding is the mean of its tokens' (Reimers and
            Gurevych 2019), as in sentence-transformers' all-MiniLM-L6-v2 and all-mpnet-base-v2, in that library's
            form. What is longer than it takes is cut.
    """
    prepare_torch(threads, seed, device)
    players = read_players({"player": responses, "human": human})
    embed = load_embedder(model, pick_device(device), trust_remote_code)
    one, other = (embed([row["response"] for row in rows]) for rows in players.values())
    similarities = (one * other).sum(-1).tolist()
    rows = [
        {
            **{key: row["metadata"][key] for key in ("prompt_id", "conversation_id")},
            "similarity": similarity,
        }
        for row, similarity in zip(players["player"], similarities, strict=True)
    ]
    write_jsonl(output, rows)
    note(f"{output.name}: {sum(similarities) / len(similarities):.3f} on average")


def load_embedder(name: str, device: str, trust_remote_code: bool = False):
    """A function from texts to their embeddings of length 1, one a row.

    Raises:
        UserError: the model cannot be loaded, or does not say that it pools by the mean and does no more.
    """
    import torch
    from tqdm import tqdm
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        model = AutoModel.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"evaluation.embedding_model: {name!r} was not loaded: {reason}") from None
    _check_pooling(name)
    model = model.to(device).eval()
    longest = min(
        tokenizer.model_max_length,
        getattr(model.config, "max_position_embeddings", 512),
        _told(name, "sentence_bert_config.json").get("max_seq_length") or math.inf,
    )

    def embed(texts: list[str]):
        found = []
        for start in tqdm(range(0, len(texts), BATCH), desc="embeddings", unit="batch"):
            inputs = tokenizer(
                texts[start : start + BATCH],
                return_tensors="pt",
                padding=True,
                padding_side="right",  # positions count from the first word
                truncation=True,
                max_length=longest,
            ).to(device)
            mask = inputs["attention_mask"][..., None]
            with torch.inference_mode():
                states = model(**inputs).last_hidden_state.float()
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
            found.append(torch.nn.functional.normalize(mean, dim=-1).cpu())
        return torch.cat(found)

    return embed


def _check_pooling(name: str) -> None:
    """UserError where an embedding is not the mean of the tokens', at most brought to length 1."""
    key = "evaluation.embedding_model"
    told = _told(name, "1_Pooling/config.json")
    if not told:
        raise UserError(
            f"{key}: {name} does not say how it pools (1_Pooling/config.json); it must be a model of"
            f" sentence-transformers, whole: a folder, or on the Hub and here after `hf download {name}`"
        )
    flags = [flag for flag, on in told.items() if flag.startswith("pooling_mode_") and on is True]
    modes = told.get("pooling_mode") or flags  # older models have flags only
    if modes not in ("mean", ["mean"], ["pooling_mode_mean_tokens"]):
        raise UserError(f"{key}: {name} does not pool by the mean (1_Pooling/config.json: {modes})")
    kinds = {module["type"].rpartition(".")[2] for module in _told(name, "modules.json") or []}
    if more := sorted(kinds - {"Transformer", "Pooling", "Normalize"}):
        raise UserError(f"{key}: {name} does more than pool (modules.json: {', '.join(more)})")


def _told(name: str, file: str):
    """What a file of the model's folder, or of its snapshot of the Hub, says; {} where there is none."""
    from transformers.utils import cached_file

    try:
        path = cached_file(
            name,
            file,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except (OSError, ValueError):  # there is no such model
        path = None
    return read_json(path) if path else {}


if __name__ == "__main__":
    stage(compare_with_human)
