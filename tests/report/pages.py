"""Data that several tests of the pages share."""

SUMMARY = {
    "on_shortage": "scale",
    "scale": 1.0,
    "parts": {
        "train": {"asked": 40, "used": 40, "examples": 50, "available": 50},
        "val": {"asked": 5, "used": 5, "examples": 5, "available": 5},
        "test": {"asked": 20, "used": 20, "examples": 20, "available": 20},
        "ai": {"asked": "the rest", "used": 8},
        "final_eval": {"asked": 12, "used": 12},
        "human": {"asked": 4, "used": 4},
    },
    "sft_to_rlaif": 5.0,
    "sft_to_rlhf": 10.0,
}
"""A summary of `data.split` whose plan fits the data."""
