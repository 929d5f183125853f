"""Logits, targets, and the terms of binary cross-entropy in plain Python."""

import math

import torch


def draw(rows=5, classes=7, seed=0):
    gen = torch.Generator().manual_seed(seed)
    targets = torch.randint(-1, 2, (rows, classes), generator=gen).float()
    return 3 * torch.randn(rows, classes, generator=gen), targets


def log_sigmoid(z):
    return -math.log1p(math.exp(-z)) if z > 0 else z - math.log1p(math.exp(z))


def bce_by_hand(z, y):
    return -y * log_sigmoid(z) - (1 - y) * log_sigmoid(-z)


def known_terms(term, logits, targets):
    """Return, for each row, the terms of a loss for the known targets."""
    pairs = zip(logits.double().tolist(), targets.double().tolist(), strict=True)
    return [[term(z, y) for z, y in zip(row, truth, strict=True) if y >= 0] for row, truth in pairs]


def gradient(loss, logits, targets):
    logits = logits.clone().requires_grad_()
    value = loss(logits, targets)
    value.backward()
    return value.detach(), logits.grad
