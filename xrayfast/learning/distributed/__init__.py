"""Several ranks train one network: who they are, and which rows of a batch are whose.

Each rank reads, augments and computes its own rows of each batch, in the order of a single process. Outputs and targets
are gathered, so that losses, metrics and decisions are those of the whole batch on every rank.
"""
