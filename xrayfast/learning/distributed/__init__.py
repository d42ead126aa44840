"""Distributed training: the process group, and the rows of a batch that belong to each rank.

Each rank reads, augments and computes its own rows of each batch; the batches are those of a single process. Outputs
and targets are gathered, so that losses, metrics and decisions are those of the whole batch on every rank.
"""
