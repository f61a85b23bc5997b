"""Follows a model's work layer by layer, so that progress moves within a batch that takes long."""

from persuasion_rl.runtime.progress import Progress

FORWARD = 1 / 3
"""The share of a training step's work that its forward pass is."""


def follow(model, progress: Progress, training: Progress | None = None) -> None:
    """Count the tokens that go through a model's layers. No number of the model's changes.

    Args:
        progress: counts forward passes without gradients.
        training: counts those of a training; a token counts in full when its gradients have come back through all layers.
    """
    import torch

    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    layers = max(lists, key=len, default=())

    def after_layer(_, args: tuple, output) -> None:
        states = output[0] if isinstance(output, tuple) else output
        tokens = states.shape[:-1].numel() / len(layers)
        if training is None or not model.training:
            progress.add(tokens=tokens)
            return
        if not states.requires_grad:  # a checkpointed layer, which is computed again
            return
        training.add(tokens=FORWARD * tokens)
        states.register_hook(lambda _: training.add(tokens=(1 - FORWARD) * tokens))

    for layer in layers:
        layer.register_forward_hook(after_layer)
