"""Structural pruning: whole heads, dimensions, neurons, residual channels and blocks leave a trained ViT.

`structure` cuts a model down to what stays, `importance` says what should stay, `compensation` makes the next Linear
layer take over what left, `sizes` finds how much may leave where.
"""
