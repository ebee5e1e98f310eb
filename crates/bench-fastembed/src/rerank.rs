//! Reranks passages with a cross-encoder in ONNX format.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bench_core::backend::{BackendError, Reranker};
use bench_core::digest;
use fastembed::{OnnxSource, RerankInitOptionsUserDefined, TextRerank, UserDefinedRerankingModel};

use crate::{BATCH, TOKEN_BYTES, batches, environment, fatal, tokenizer_files};

/// Tokens read of question and passage together, special ones included: what cross-encoders of the
/// BERT family were trained with. Longer pairs are cut at the passage's end.
const MAX_LENGTH: usize = 512;

/// A cross-encoder: reads question and passage together and gives one score (the first logit).
pub struct OnnxReranker {
    id: String,
    model: Mutex<TextRerank>,
}

impl OnnxReranker {
    /// Opens the folder of a model: `model.onnx` with the output `logits`, and `tokenizer.json`.
    /// `runtime` is the ONNX Runtime library, as for [`crate::OnnxEmbedder::open`].
    ///
    /// # Errors
    /// A file that is missing or damaged, a model that is no cross-encoder, a runtime that is too
    /// old.
    pub fn open(folder: &Path, runtime: &Path) -> Result<Self, BackendError> {
        let (onnx, tokenizer) = (folder.join("model.onnx"), folder.join("tokenizer.json"));
        let onnx_bytes = fs_err::read(&onnx).map_err(fatal)?;
        let tokenizer_bytes = fs_err::read(&tokenizer).map_err(fatal)?;
        let digests = [&onnx_bytes, &tokenizer_bytes].map(|bytes| digest::of_bytes(bytes));
        let id = digest::of_json(&("cross-encoder", digests, MAX_LENGTH));
        let environment = environment(runtime)?;
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let files = tokenizer_files(&tokenizer, tokenizer_bytes, MAX_LENGTH)?;
        let model = UserDefinedRerankingModel::new(OnnxSource::Memory(onnx_bytes), files);
        let options = RerankInitOptionsUserDefined::new()
            .with_environment(environment)
            .with_max_length(MAX_LENGTH)
            .with_intra_threads(threads)
            .with_session_config("session.intra_op.allow_spinning", "0");
        let unusable = |error: fastembed::Error| {
            let (onnx, tokenizer) = (onnx.display(), tokenizer.display());
            fatal(format!("cannot rerank with `{onnx}` and `{tokenizer}`: {error}"))
        };
        let mut model = TextRerank::try_new_from_user_defined(model, options).map_err(unusable)?;
        // An embedder's file opens too, and has no score to give.
        model.rerank("probe", ["probe"], false, Some(1)).map_err(unusable)?;
        Ok(Self { id, model: Mutex::new(model) })
    }
}

impl Reranker for OnnxReranker {
    fn id(&self) -> &str {
        &self.id
    }

    fn score(&self, query: &str, passages: &[String]) -> Result<Vec<f64>, BackendError> {
        // Passages of one length together: little padding.
        let mut order: Vec<usize> = (0..passages.len()).collect();
        order.sort_by_key(|&at| passages[at].len());
        let mut scores = vec![f64::NAN; passages.len()];
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        let length = |at: usize| (query.len() + passages[at].len()).min(MAX_LENGTH * TOKEN_BYTES);
        for batch in batches(&order, length) {
            let texts: Vec<&str> = batch.iter().map(|&at| passages[at].as_str()).collect();
            let found = model.rerank(query, &texts, false, Some(BATCH)).map_err(fatal)?;
            for result in found {
                scores[batch[result.index]] = f64::from(result.score);
            }
        }
        Ok(scores)
    }
}
