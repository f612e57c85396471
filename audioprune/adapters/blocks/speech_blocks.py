"""Blocks and heads that speech encoders have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.backbone_utils import filter_output_hidden_states
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from .entering import KWARG, Entering
from .swapped import SwappedModel, weighted_mean
from .token_pass import TokenPass


class PostNorm(nn.Module):
    """A block with normalization after each residual that drops tokens between its attention and its feed-forward.

    They are dropped after the residual and before its norm. The place is the same as in a block that normalizes first,
    and in both, merged tokens are means of the residual stream.
    """

    def forward(
        self: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        token_pass: TokenPass | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if token_pass is None:  # a block that is called outside its encoder
            return super().forward(hidden_states, attention_mask, **kwargs)
        hidden_states, call = token_pass.enter(self._audioprune_index, hidden_states)
        # The encoder's mask covers all tokens; the call has one for the kept tokens.
        attended, _ = self.attention(hidden_states, attention_mask=None, attention_call=call, **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        hidden_states = self.layer_norm(token_pass.reduce(self._audioprune_index, hidden_states, call))
        hidden_states = self.final_layer_norm(hidden_states + self.feed_forward(hidden_states))
        return token_pass.leave(self._audioprune_index, hidden_states)


class PreNorm(nn.Module):
    """A block with normalization before each residual ("stable layer norm") that drops tokens in between."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        token_pass: TokenPass | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if token_pass is None:  # a block that is called outside its encoder
            return super().forward(hidden_states, attention_mask, **kwargs)
        hidden_states, call = token_pass.enter(self._audioprune_index, hidden_states)
        attended, _ = self.attention(self.layer_norm(hidden_states), attention_mask=None, attention_call=call, **kwargs)
        hidden_states = token_pass.reduce(self._audioprune_index, hidden_states + self.dropout(attended), call)
        hidden_states = hidden_states + self.feed_forward(self.final_layer_norm(hidden_states))
        if self.adapter_layer is not None:
            hidden_states = hidden_states + self.adapter_layer(hidden_states)
        return token_pass.leave(self._audioprune_index, hidden_states)


class PooledHead(Entering, SwappedModel):
    """A sequence classification head that averages over the kept tokens."""

    @can_return_tuple
    @filter_output_hidden_states
    def with_pass(
        self: Any,
        input_values: Tensor | None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        outputs = self.base_model(input_values, attention_mask=attention_mask, **kwargs)
        return classify(self, outputs, kwargs[KWARG], labels)


def classify(head: Any, outputs: Any, token_pass: TokenPass, labels: Tensor | None) -> SequenceClassifierOutput:
    """Output of transformers' heads, with the mean over the kept tokens instead of all frames.

    Args:
        head: the classification head.
        outputs: outputs of the base model.
        token_pass: the pass of this forward.
        labels: (batch,), or None.
    """
    # The head's own masked mean would divide by the original number of frames.
    weight = token_pass.final_weight(outputs.last_hidden_state)
    projected = head.projector(outputs.last_hidden_state)
    logits = head.classifier(projected.mean(dim=1) if weight is None else weighted_mean(projected, weight))
    loss = None
    if labels is not None:
        loss = F.cross_entropy(logits.view(-1, head.config.num_labels), labels.to(logits.device).view(-1))
    return SequenceClassifierOutput(
        loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
    )
