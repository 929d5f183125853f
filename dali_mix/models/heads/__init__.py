"""Multi-label heads: the last map (B,C,H,W) or tokens (B,N,C) of a backbone → logits (B,K)."""

from dali_mix.models.heads.csra import CSRAHead
from dali_mix.models.heads.pooled import AveragePoolHead, MaxPoolHead
from dali_mix.models.heads.sgre import SGREHead

__all__ = ["AveragePoolHead", "CSRAHead", "MaxPoolHead", "SGREHead"]
