"""Semantic-guided representation enhancement (SGRE): label embeddings attend to tokens, and tokens to labels.

State-dict keys are those of the released checkpoints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dali_mix.models.heads.tokens import as_maps, as_tokens, grid_of, sine_positions


class EncoderLayer(nn.Module):
    """A post-norm transformer encoder layer; positions are added to queries and keys, not to values.

    Tokens (B,N,D) and positions (N,D) → tokens (B,N,D).
    """

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        placed = tokens + positions
        attended, _ = self.self_attn(placed, placed, tokens, need_weights=False)
        tokens = self.norm1(tokens + self.dropout(attended))
        fed = self.linear2(self.dropout(F.relu(self.linear1(tokens))))
        return self.norm2(tokens + self.dropout(fed))


class LabelAttention(nn.Module):
    """Low-rank bilinear attention of labels to tokens: softmax over tokens of v · tanh(W1 x ∘ W2 e) / temperature.

    x is a token and e a label embedding. v is the product of the matrices of two linear layers. The released code
    applies the layers one after the other to the values of tanh, (B,N,K,rank). Here, the matrices are multiplied first.
    """

    def __init__(self, dim: int, label_dim: int, rank: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.linear1 = nn.Linear(dim, rank, bias=False)
        self.linear2 = nn.Linear(label_dim, rank, bias=False)
        self.hidden_linear = nn.Linear(rank, rank)
        self.target_linear = nn.Linear(rank, 1)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Return attention (B,K,N), which sums to 1 over N, of labels (K,E) to tokens (B,N,D)."""
        products = torch.tanh(self.linear1(tokens)[:, :, None] * self.linear2(labels))
        weight = self.target_linear.weight @ self.hidden_linear.weight
        # A constant that softmax cancels. Without it, the biases would get no gradients, and DDP would wait for them.
        bias = self.target_linear(self.hidden_linear.bias)
        scores = F.linear(products, weight, bias).squeeze(3)
        return (scores / self.temperature).softmax(1).transpose(1, 2)


class SGREHead(nn.Module):
    """Head of SGRE: label embeddings attend to encoded tokens, and tokens to the resulting class features.

    Maps (B,C,H,W) or tokens (B,N,C) pass through an encoder layer. Label attention then computes one feature per class.
    The auxiliary logit of a class is a linear function of its feature. Each token attends to the class features, is
    concatenated with the result, and is mapped to logits of all classes. The logits returned (B,K) are the maximum of
    the tokens' logits.

    Args:
        dim: C of the features, a multiple of 4 and of `heads`.
        embeddings: (K,E) of a float dtype, one row per class in order, from a language model or random.
        learn_embeddings: True to train the embeddings, as for random ones; otherwise they are fixed.
        heads, feedforward: number of heads and hidden width of the encoder layer.
        rank: rank of the bilinear attention.
        temperature: temperature of its softmax, > 0.
        dropout: dropout rate in the encoder layer and before the last linear layer.

    Raises:
        ValueError: an argument out of range. The methods raise it for features of a wrong shape, and for tokens that do
            not form a square grid (pass maps instead).
    """

    def __init__(
        self,
        dim: int,
        embeddings: Tensor,
        *,
        learn_embeddings: bool = False,
        heads: int = 8,
        feedforward: int = 2048,
        rank: int = 1024,
        temperature: float = 1.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if embeddings.ndim != 2 or not embeddings.is_floating_point() or not len(embeddings):
            raise ValueError(f"embeddings {tuple(embeddings.shape)} {embeddings.dtype}: need (K,E) of a float dtype")
        if dim % 4 or dim % heads:
            raise ValueError(f"dim={dim}: must be a multiple of 4 and of heads={heads}")
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: must be above 0")
        num_classes, label_dim = embeddings.shape
        self.in_channels = dim
        values = embeddings.detach().float().clone()
        if learn_embeddings:
            self.embeddings: Tensor = nn.Parameter(values)
        else:
            self.register_buffer("embeddings", values)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList([EncoderLayer(dim, heads, feedforward, dropout)])})
        self.attention = LabelAttention(dim, label_dim, rank, temperature)
        self.fc = nn.Linear(dim, num_classes)
        self.net1, self.net2, self.net3, self.net4 = (_pointwise(dim) for _ in range(4))
        self.fc2 = nn.Sequential(
            nn.Linear(2 * dim, 2 * dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * dim, num_classes)
        )

    def forward(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits (B,K) of features (B,C,H,W) or (B,N,C).

        In training, return (logits, auxiliary logits) for `SGRELoss`.
        """
        by_token, auxiliary, _ = self._run(features)
        logits = by_token.amax(1)
        return (logits, auxiliary) if self.training else logits

    def class_maps(self, features: Tensor) -> Tensor:
        """Return each token's logits, whose maximum over tokens is the prediction: (B,K,H,W), or (B,K,N) for tokens."""
        return as_maps(self._run(features)[0].transpose(1, 2), features)

    def attention_maps(self, features: Tensor) -> Tensor:
        """Return each label's attention, which sums to 1 over positions: (B,K,H,W), or (B,K,N) for tokens."""
        return as_maps(self._run(features)[2], features)

    def _run(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of each token (B,N,K), the auxiliary logits (B,K) and the attention (B,K,N)."""
        tokens = as_tokens(features, self.in_channels)
        positions = sine_positions(self.in_channels, *grid_of(features), device=features.device).to(features.dtype)
        for layer in self.encoder["layers"]:  # type: ignore[attr-defined]
            tokens = layer(tokens, positions)
        alpha = self.attention(tokens, self.embeddings)
        found = alpha.to(tokens.dtype) @ tokens
        auxiliary = (found * self.fc.weight).sum(2) + self.fc.bias
        queries = self.net1(tokens.transpose(1, 2))
        keys, values = self.net2(found.transpose(1, 2)), self.net3(found.transpose(1, 2))
        back = (queries.transpose(1, 2) @ keys).softmax(2).to(values.dtype) @ values.transpose(1, 2)
        enhanced = self.net4(back.transpose(1, 2)).transpose(1, 2)
        return self.fc2(torch.cat([tokens, enhanced.to(tokens.dtype)], 2)), auxiliary, alpha


def _pointwise(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(dim, dim, 1, bias=False), nn.BatchNorm1d(dim), nn.ReLU())
