//! Generates through any OpenAI-compatible endpoint.
