"""What every prompt says: the system's line, the task, and the form in which they stand around a context."""

from dataclasses import dataclass

from persuasion_rl.files import UserError

SYSTEM = "You are a respectful assistant who tries to change people's minds with honest arguments."
TASKS = {
    "cmv": "Write the next message to the poster.",
    "p4g": "Write the persuader's next message.",
}


def task(source: str, words: int | None = None) -> str:
    """What the prompts of a source ("cmv" or "p4g") ask for; with `words`, the length to ask for."""
    return TASKS[source] + (f" Use about {words} words." if words else "")


@dataclass(frozen=True)
class PromptFormat:
    """A form of prompts: `before`, the context, `between`, the task, `after`; there the response begins.

    Attributes:
        name: "plain" for tagged text, or "chat" for the base model's own chat template.
        before, after: in a chat what its template writes, where control tokens may stand.
    """

    name: str
    before: str
    between: str
    after: str

    def render(self, context: str, source: str, words: int | None = None) -> str:
        """The prompt for a context. For `source` and `words` see `task`."""
        return self.before + context + self.between + task(source, words) + self.after

    def context_of(self, prompt: str, source: str) -> str:
        """The context that a prompt was rendered for, where no length was asked for.

        Raises:
            UserError: the prompt was rendered in another way.
        """
        behind = self.between + task(source) + self.after
        fits = len(prompt) >= len(self.before) + len(behind)
        if not (fits and prompt.startswith(self.before) and prompt.endswith(behind)):
            raise UserError(f"not a prompt of the format {self.name}: {prompt[:60]!r}...")
        return prompt.removeprefix(self.before).removesuffix(behind)


PLAIN = PromptFormat(
    "plain",
    before=f"[SYSTEM] {SYSTEM}\n[CONTEXT]\n",
    between="\n[TASK]\n",
    after="\n[RESPONSE]\n",
)


def messages(context: str, source: str, words: int | None = None) -> list[dict[str, str]]:
    """A context and its task as the messages of a chat model: system and user. For `words` see `task`."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{context}\n\n{task(source, words)}"},
    ]
