//! `embedding_similarity`: how close answer and reference lie in an embedding space.

use std::sync::Arc;

use async_trait::async_trait;
use bench_core::backend::{BackendError, BackendErrorKind, Embedder, Purpose};
use bench_core::dataset::Sample;
use bench_core::record::Verdict;

use super::{Scorer, wrong};

pub(super) struct EmbeddingSimilarity {
    embedder: Arc<dyn Embedder>,
}

impl EmbeddingSimilarity {
    pub(super) fn new(embedder: Arc<dyn Embedder>) -> Self {
        Self { embedder }
    }
}

#[async_trait]
impl Scorer for EmbeddingSimilarity {
    fn name(&self) -> &'static str {
        "embedding_similarity"
    }

    async fn score(&self, sample: &Sample, answer: &str) -> Result<Verdict, BackendError> {
        if answer.trim().is_empty() {
            return Ok(wrong("the answer is empty"));
        }
        let texts: Vec<String> =
            std::iter::once(answer).chain(sample.accepted()).map(str::to_owned).collect();
        let embedder = Arc::clone(&self.embedder);
        let vectors =
            tokio::task::spawn_blocking(move || embedder.embed(Purpose::Passage, &texts)).await;
        match vectors {
            Ok(Ok(vectors)) => Ok(nearest(&vectors)),
            Ok(Err(error)) if error.kind == BackendErrorKind::Fatal => Err(error),
            Ok(Err(error)) => Ok(Verdict::unscored(error.chain())),
            Err(panic) => Ok(Verdict::unscored(format!("the embedder broke off: {panic}"))),
        }
    }
}

/// The cosine of the first vector and the closest of the others.
fn nearest(vectors: &[Vec<f32>]) -> Verdict {
    let Some((answer, references)) = vectors.split_first() else {
        return Verdict::unscored("the embedder returned no vector");
    };
    let closest = references.iter().map(|reference| cosine(answer, reference)).reduce(f64::max);
    match closest {
        Some(cosine) if cosine.is_finite() => Verdict::scored(cosine),
        _ => Verdict::unscored("the embedder returned no direction"),
    }
}

fn cosine(one: &[f32], other: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
}
