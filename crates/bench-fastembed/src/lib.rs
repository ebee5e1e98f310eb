//! Embeds text with fastembed over ONNX Runtime.
