"""Structural pruning: removes whole heads, dimensions, neurons, residual channels and blocks from a trained ViT.

`structure` cuts a model down to the structures that are kept, `sizes` computes sizes that meet a budget, `importance`
scores structures, `rotation` sorts the dimensions of each head by what they carry, `compensation` refits the Linear
layers behind, and `search` measures how much each block can lose.
"""
