"""How similar in meaning a player's replies are to the human winning ones, by a sentence-embedding model."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from persuasion_rl.data.packages import encoders_in, extract, opened, the_one
from persuasion_rl.evaluation.players import read_players
from persuasion_rl.files import UserError, write_jsonl
from persuasion_rl.models.arguments import DeviceArguments
from persuasion_rl.models.devices import pick_device, prepare_torch
from persuasion_rl.records import SimilarityRow
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.runtime.progress import Progress

BATCH = 32


def evaluate_similarity(
    *,
    job: DeviceArguments,
    model: str,
    responses: Path,
    human: Path,
    output: Path,
    inside: str | None = None,
) -> None:
    """Write a SimilarityRow for each reply.

    Args:
        model: folder or Hub name of a model of sentence-transformers (Reimers and Gurevych 2019), or the package (.whl) that
            it is in. Its files decide how it pools, and it cuts longer texts.
        inside: the model's folder in a package that has several.
        responses: the player's ReplyRows. human: the human winning ones, to the same prompts.
    """
    prepare_torch(job.threads, job.seed, job.device)
    players = read_players({"player": responses, "human": human})
    with _folder_of(model, inside) as folder:
        encoder = load_encoder(folder, pick_device(job.device), job.trust_remote_code)
    player_embeddings, human_embeddings = (
        embeddings(encoder, [row["response"] for row in rows]) for rows in players.values()
    )
    similarities = (player_embeddings * human_embeddings).sum(-1).tolist()
    rows: list[SimilarityRow] = [
        {
            **{key: row["metadata"][key] for key in ("prompt_id", "conversation_id")},
            "similarity": similarity,
        }
        for row, similarity in zip(players["player"], similarities, strict=True)
    ]
    write_jsonl(output, rows)
    note(f"{output.name}: {sum(similarities) / len(similarities):.3f} on average")


@contextmanager
def _folder_of(model: str, inside: str | None) -> Iterator[str]:
    """The folder or Hub name of a model; one in a package is unpacked for as long as it is being loaded."""
    if not model.endswith(".whl"):
        yield model
        return
    with tempfile.TemporaryDirectory() as folder, opened(Path(model)) as package:
        extract(package, the_one(encoders_in(package), inside, model), Path(folder))
        yield folder


def load_encoder(name: str, device: str, trust_remote_code: bool = False):
    """A `SentenceTransformer`, from a folder or from the Hub (with HF_HUB_OFFLINE=1: from its cache).

    Raises:
        UserError: it cannot be loaded, or is no model of sentence-transformers: for those the library would pool by the
            mean, whatever the model was trained for.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import is_sentence_transformer_model

    from persuasion_rl.models.linear import quicken

    key = "evaluation.embedding_model"
    try:
        complete = is_sentence_transformer_model(name)
        encoder = SentenceTransformer(name, device=device, trust_remote_code=trust_remote_code)
    except (
        Exception
    ) as error:  # from transformers, huggingface_hub, json, or the model's own modules
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{key}: {name!r} was not loaded: {reason}") from None
    if not complete:
        raise UserError(
            f"{key}: {name} does not say how it pools (modules.json); it must be a model of sentence-transformers,"
            f" whole: a folder, or on the Hub and here after `hf download {name}`"
        )
    encoder.tokenizer.split_special_tokens = True  # what people spelled like one is text
    quicken(encoder)
    return encoder


def embeddings(encoder, texts: list[str]):
    """The embeddings of texts, normalised to length 1: a tensor (texts, dimensions) of float32 on the CPU."""
    progress = Progress("similarity", len(texts), "texts")

    def after_batch(_, args: tuple, features: dict) -> None:
        tokens = features.get("attention_mask")
        progress.add(
            done=len(features["sentence_embedding"]),
            tokens=0 if tokens is None else tokens.sum().item(),
        )

    hook = encoder[-1].register_forward_hook(after_batch)
    try:
        encoded = encoder.encode(
            texts,
            batch_size=BATCH,
            normalize_embeddings=True,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
    finally:
        hook.remove()
    return encoded.float().cpu()


if __name__ == "__main__":
    stage(evaluate_similarity)
