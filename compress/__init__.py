"""Model compression and efficiency benchmarking for Vision Transformers."""

__version__ = "0.1.0"
