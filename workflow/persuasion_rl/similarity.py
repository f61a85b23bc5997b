"""How near in meaning a player's replies are to the human winning ones, by a sentence-embedding model."""

from pathlib import Path

from persuasion_rl.command import note, stage
from persuasion_rl.devices import pick_device, prepare_torch
from persuasion_rl.evaluation import read_players
from persuasion_rl.files import UserError, read_json, write_jsonl

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
            Gurevych 2019), as in sentence-transformers' all-MiniLM-L6-v2 and all-mpnet-base-v2. What is longer than
            it takes is cut.
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
        UserError: the model cannot be loaded, or says that it pools otherwise than by the mean.
    """
    import torch
    from tqdm import tqdm
    from transformers import AutoModel, AutoTokenizer

    pooling = Path(name, "1_Pooling", "config.json")
    if pooling.is_file() and not read_json(pooling).get("pooling_mode_mean_tokens"):
        raise UserError(f"evaluation.embedding_model: {name} does not pool by the mean ({pooling})")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        model = AutoModel.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"evaluation.embedding_model: {name!r} was not loaded: {reason}") from None
    model = model.to(device).eval()
    longest = getattr(model.config, "max_position_embeddings", 512)
    longest = min(tokenizer.model_max_length, longest)

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


if __name__ == "__main__":
    stage(compare_with_human)
