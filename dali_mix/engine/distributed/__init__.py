"""Distributed training: process group, rendezvous, and checks that all ranks agree."""
