"""Recordings go in; a bundle that passed its gates comes out, ready to be signed.

The room needs the extra ``train`` (scikit-learn, onnx, onnxruntime) and is imported only by the commands ``wheeltapper
train`` and ``wheeltapper demo``, by tests and by benchmarks: never by the running service. Pure: ``errors``.
"""
