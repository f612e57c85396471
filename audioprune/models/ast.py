"""AST-MP: the Audio Spectrogram Transformer with mean pooling instead of its CLS and distillation tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import ASTConfig, ASTForAudioClassification, ASTModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .pooling import MeanPooling


class ASTMeanPooledModel(ASTModel):
    """`ASTModel` whose `pooler_output` (batch, width) is the mean of the patch tokens after the final norm."""

    def __init__(self, config: ASTConfig) -> None:
        super().__init__(config)
        self.pooling = MeanPooling()

    def forward(
        self, input_values: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Run the model. `input_values`: (batch, frames, mels), normalised log-mel."""
        kwargs["return_dict"] = True
        outputs = super().forward(input_values, attention_mask=attention_mask, **kwargs)
        outputs.pooler_output = self.pooling(outputs.last_hidden_state[:, 2:], **kwargs)
        return outputs


class ASTMeanPooledForAudioClassification(ASTForAudioClassification):
    """AST-MP of Token Pruning in Audio Transformers (arXiv 2504.01690, §5.3). State-dict keys are those of AST.

    `config.pooling` is "mean", so that `audioprune.load` uses this class again.
    """

    # Losses are means over a batch, so a Trainer that accumulates gradients must divide them.
    accepts_loss_kwargs = False

    def __init__(self, config: ASTConfig) -> None:
        super().__init__(config)
        config.pooling = "mean"
        self.audio_spectrogram_transformer = ASTMeanPooledModel(config)
        self.post_init()


AST_CLASSES: dict[str, type[ASTForAudioClassification]] = {
    "cls": ASTForAudioClassification,
    "mean": ASTMeanPooledForAudioClassification,
}
"""Pooling → class of AST."""
