"""Execution planes: what computes the pieces of a network (`model/graph`). They need not share a framework.

Reading order: `base` (what a plane can do), `torch_plane`, `onnx_export` (pieces as ONNX models, made where torch is),
`onnx_plane` (ONNX Runtime; needs no torch), `steps` (optimizers in NumPy).
"""
