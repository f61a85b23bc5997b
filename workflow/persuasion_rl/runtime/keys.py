"""Keys of servers: they come from the environment and go nowhere but into requests."""

import os
from ipaddress import ip_address
from urllib.parse import urlsplit

from persuasion_rl.files import UserError

VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
"""The environment variable with each provider's key."""


def key_for(provider: str, base_url: str | None, who: str) -> str | None:
    """A provider's key; None if a server on this machine is used without one.

    Args:
        who: what needs the key, for the message.

    Raises:
        UserError: the key is missing, or a request's header cannot hold it.
    """
    variable = VARIABLES[provider]
    key = os.environ.get(variable, "").strip()
    if not key and not is_loopback(base_url):
        raise UserError(
            f"{who}: the environment variable {variable} is not set; it must hold the key"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(
            f"{who}: the environment variable {variable} holds more than a key: a line break, a space, or a"
            " character that no key has"
        )
    return key or None


def check_hub_token() -> None:
    """UserError if there is no token for publishing a model."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError("publish: no token; set HF_TOKEN, or run `hf auth login`")


def without_keys(text: str) -> str:
    """A text without the keys of the environment, which servers may repeat in messages."""
    for variable in VARIABLES.values():
        if key := os.environ.get(variable, "").strip():
            text = text.replace(key, "[key]")
    return text


def is_loopback(url: str | None) -> bool:
    """Whether a server is on this machine."""
    try:
        host = urlsplit(url or "").hostname
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False
