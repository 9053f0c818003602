"""compress in a program of the user's: the verbs of the command line for modules, data sets and arrays.

    import compress

    result = compress.quantize(model, train_loader, test=test_loader)
    result                                # measured rows: as a table in a notebook, or result.frame for pandas
    result.model(images)                  # logits, in the engine that won
    result.save("model.int8.onnx")

A model is an `nn.Module` of timm, torchvision, transformers or of the user's own, or the path of a checkpoint. Images
are a `DataLoader`, a data set, a pair of arrays (images, labels), or a name as `--data` takes it; see `datasets.py`.
Every artifact is measured in a process of its own, as on the command line.
"""

from compress.api.compression import bench, halt, prune, quantize, search
from compress.api.conversion import distill, export, load, predict
from compress.api.results import Artifact, Result

__all__ = ["Artifact", "Result", "bench", "distill", "export", "halt", "load", "predict", "prune", "quantize", "search"]
