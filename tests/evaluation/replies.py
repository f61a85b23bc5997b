"""Rows of replies that the tests of the evaluation share."""


def player_rows(replies: list[str], cut: tuple[int, ...] = ()) -> list[dict]:
    return [
        {
            "prompt": f"prompt {i}",
            "response": reply,
            "metadata": {
                "prompt_id": f"p{i}",
                "conversation_id": f"c{i}",
                "finish_reason": "length" if i in cut else "stop",
                "tokens": 10 * (i + 1),
            },
        }
        for i, reply in enumerate(replies)
    ]
