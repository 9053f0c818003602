"""Structural pruning: whole heads, dimensions, neurons, residual channels and blocks leave a trained ViT.

`structure` cuts a model down to what stays, `sizes` says how large that may be, `importance` which it should be,
`rotation` puts what matters in a head first, `compensation` fits the next Linear layers to it, and `search` finds how
much may leave where.
"""
