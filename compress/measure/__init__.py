"""How a model is measured: cost, accuracy, latency, memory, environment. Knows models, not methods."""
