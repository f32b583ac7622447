"""ONNX bundles in sherpa-onnx's layout: export, quantise, prove parity, score what ships."""
