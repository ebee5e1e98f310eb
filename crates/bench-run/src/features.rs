//! Arms without a language model: a classifier over frozen sentence embeddings. Fitting one, and
//! answering with it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bench_core::backend::{
    BackendError, ClassifierTrainer, Completion, Embedder, Generator, Purpose, Request, Served,
    TrainOutcome,
};
use bench_core::chat::{Message, Role};
use bench_core::classifier::LinearClassifier;
use bench_core::dataset::{Sample, TrainRow};
use bench_core::digest;
use bench_core::manifest::{ClassifierEntry, TriedPenalty};
use bench_core::spec::Features;
use serde::{Deserialize, Serialize};

use crate::store::write_atomically;

const BACKEND: &str = "features";

/// The fitted classifier.
const CLASSIFIER: &str = "classifier.json";

/// What is known about how it was fitted; written last.
const RECORD: &str = "bench.json";

/// Training rows that each label has on average, at least: with fewer, references are texts of
/// their own and not labels.
const ROWS_PER_LABEL: usize = 2;

/// Input and reference of each row that has both.
pub(crate) fn labelled(rows: &[TrainRow]) -> Vec<(&str, &str)> {
    rows.iter()
        .filter_map(|row| match row {
            TrainRow::Completion { input, reference } => Some((input.as_str(), reference.trim())),
            TrainRow::Preference { .. } | TrainRow::Labelled { .. } | TrainRow::Text(_) => None,
        })
        .collect()
}

/// Why the references of these rows are no small closed set of labels; `None` where they are one.
pub(crate) fn problem(rows: &[TrainRow]) -> Option<String> {
    let pairs = labelled(rows);
    let labels: BTreeSet<&str> = pairs.iter().map(|pair| pair.1).collect();
    if pairs.len() < rows.len() {
        let others = rows.len() - pairs.len();
        return Some(format!("{others} of {} training rows have no `reference`", rows.len()));
    }
    if labels.len() < 2 {
        return Some("all training rows have the same reference".into());
    }
    (labels.len() * ROWS_PER_LABEL > pairs.len()).then(|| {
        let example = pairs.iter().map(|pair| pair.1).max_by_key(|text| text.len());
        let example: String = example.unwrap_or_default().chars().take(40).collect();
        format!(
            "its {} training rows have {} different references (`{example}` is one), which is no small closed set of labels",
            pairs.len(),
            labels.len()
        )
    })
}

/// Everything a classifier depends on.
pub(crate) struct Lesson<'a> {
    pub(crate) settings: &'a Features,
    pub(crate) embedder: &'a dyn Embedder,
    /// Inputs and labels.
    pub(crate) rows: Vec<(&'a str, &'a str)>,
    /// What the penalty is chosen on.
    pub(crate) dev: &'a [Sample],
}

/// What fitting left behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fitted {
    pub(crate) outcome: TrainOutcome,
    pub(crate) entry: ClassifierEntry,
}

impl Lesson<'_> {
    /// What tells one classifier from another.
    pub(crate) fn key(&self) -> String {
        let dev: Vec<_> = self.dev.iter().map(|one| (&one.input, &one.reference)).collect();
        digest::of_json(&(self.embedder.id(), &self.settings.c, &self.rows, dev))
    }

    /// The classifier in `folder`, fitted now unless it is there.
    pub(crate) fn fit(
        &self,
        trainer: &dyn ClassifierTrainer,
        folder: &Path,
    ) -> Result<Fitted, BackendError> {
        let fatal = |error: std::io::Error| BackendError::fatal(BACKEND, error);
        let found = fs_err::read(folder.join(RECORD)).ok();
        let found = found.and_then(|bytes| serde_json::from_slice::<Fitted>(&bytes).ok());
        if let Some(mut found) = found
            && let Ok(bytes) = fs_err::read(folder.join(CLASSIFIER))
            && digest::of_bytes(&bytes) == found.outcome.digest
        {
            folder.clone_into(&mut found.outcome.adapter);
            return Ok(found);
        }
        let started = Instant::now();
        let (classifier, entry) = self.chosen(trainer)?;
        let bytes = serde_json::to_vec(&classifier).unwrap_or_default();
        let parameters = classifier.parameters();
        let outcome = TrainOutcome {
            adapter: folder.to_owned(),
            digest: digest::of_bytes(&bytes),
            served: Served::Classifier,
            trainable_parameters: parameters,
            total_parameters: parameters,
            seconds: started.elapsed().as_secs_f64(),
            peak_memory_bytes: 0,
            rows_too_long: 0,
            rows_cut: 0,
            dev_rows_too_long: 0,
            best_step: None,
            halved: 0,
            steps: Vec::new(),
        };
        let fitted = Fitted { outcome, entry };
        fs_err::create_dir_all(folder).map_err(fatal)?;
        write_atomically(&folder.join(CLASSIFIER), &bytes).map_err(fatal)?;
        let record = serde_json::to_vec_pretty(&fitted).unwrap_or_default();
        write_atomically(&folder.join(RECORD), &record).map_err(fatal)?;
        Ok(fitted)
    }

    /// The classifier whose penalty does best on dev: the highest accuracy, of equal ones the lowest
    /// loss, of equal ones the stronger penalty.
    fn chosen(
        &self,
        trainer: &dyn ClassifierTrainer,
    ) -> Result<(LinearClassifier, ClassifierEntry), BackendError> {
        let inputs: Vec<String> = self.rows.iter().map(|row| row.0.to_owned()).collect();
        let labels: Vec<String> = self.rows.iter().map(|row| row.1.to_owned()).collect();
        let vectors = self.embedder.embed(Purpose::Query, &inputs)?;
        let several = self.settings.c.len() > 1;
        let inputs: Vec<String> = self.dev.iter().map(|sample| sample.input.clone()).collect();
        let dev = if several { self.embedder.embed(Purpose::Query, &inputs)? } else { Vec::new() };
        let mut strengths = self.settings.c.clone();
        strengths.sort_by(f64::total_cmp);
        let mut best: Option<(TriedPenalty, LinearClassifier)> = None;
        let mut tried = Vec::new();
        for c in strengths {
            let classifier = trainer.fit(&vectors, &labels, c)?;
            let result = self.measured(&classifier, &dev, c);
            tried.extend(several.then_some(result));
            if best.as_ref().is_none_or(|(most, _)| is_better(&result, most)) {
                best = Some((result, classifier));
            }
        }
        let Some((chosen, classifier)) = best else {
            return Err(BackendError::fatal(BACKEND, "there is no `C` to fit with"));
        };
        let entry = ClassifierEntry {
            embedder: self.embedder.id().to_owned(),
            labels: classifier.labels.len() as u64,
            c: chosen.c,
            dev_samples: dev.len() as u64,
            tried,
        };
        Ok((classifier, entry))
    }

    fn measured(&self, classifier: &LinearClassifier, dev: &[Vec<f32>], c: f64) -> TriedPenalty {
        let (mut right, mut losses) = (0, Vec::new());
        for (sample, vector) in self.dev.iter().zip(dev) {
            let label = classifier.label(vector);
            right += usize::from(sample.accepted().any(|text| label == Some(text.trim())));
            let reference = sample.reference.trim();
            let place = classifier.labels.iter().position(|label| label == reference);
            losses.extend(place.map(|place| -classifier.log_probabilities(vector)[place]));
        }
        let mean = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        TriedPenalty {
            c,
            accuracy: right as f64 / dev.len().max(1) as f64,
            loss: (!losses.is_empty()).then_some(mean),
        }
    }
}

fn is_better(one: &TriedPenalty, other: &TriedPenalty) -> bool {
    let loss = |tried: &TriedPenalty| tried.loss.unwrap_or(f64::INFINITY);
    let by_accuracy = one.accuracy.total_cmp(&other.accuracy);
    by_accuracy.then(loss(other).total_cmp(&loss(one))).is_gt()
}

/// Answers with the label of the last turn's text.
pub(crate) struct Classifies {
    embedder: Arc<dyn Embedder>,
    classifier: Arc<LinearClassifier>,
    id: String,
}

impl Classifies {
    /// With the classifier in `folder`.
    pub(crate) fn open(folder: &Path, embedder: Arc<dyn Embedder>) -> Result<Self, BackendError> {
        let bytes = fs_err::read(folder.join(CLASSIFIER))
            .map_err(|error| BackendError::fatal(BACKEND, error))?;
        let classifier =
            serde_json::from_slice(&bytes).map_err(|error| BackendError::fatal(BACKEND, error))?;
        let id = format!(
            "classifier {} over {}",
            digest::short(&digest::of_bytes(&bytes)),
            digest::short(embedder.id())
        );
        Ok(Self { embedder, classifier: Arc::new(classifier), id })
    }
}

#[async_trait]
impl Generator for Classifies {
    fn id(&self) -> &str {
        &self.id
    }

    /// There is no language model whose tokens could be counted.
    fn count_tokens(&self, _: &[Message]) -> Result<Option<u32>, BackendError> {
        Ok(Some(0))
    }

    async fn generate(&self, request: &Request) -> Result<Completion, BackendError> {
        let asked = request.messages.iter().rfind(|turn| turn.role == Role::User);
        let text = asked.map(|turn| turn.content.clone()).unwrap_or_default();
        let started = Instant::now();
        let (embedder, classifier) = (Arc::clone(&self.embedder), Arc::clone(&self.classifier));
        let label = tokio::task::spawn_blocking(move || {
            let vectors = embedder.embed(Purpose::Query, &[text])?;
            let label = vectors.first().and_then(|vector| classifier.label(vector));
            Ok::<_, BackendError>(label.map(str::to_owned))
        });
        let label = label
            .await
            .map_err(|panic| BackendError::rejected(BACKEND, format!("it broke off: {panic}")))??;
        let text = label
            .ok_or_else(|| BackendError::rejected(BACKEND, "the embedder returned no vector"))?;
        Ok(Completion {
            text,
            latency_ms: started.elapsed().as_secs_f64() * 1e3,
            finish: "label".into(),
            ..Completion::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text's vector is how often it has the letters a and b.
    struct Letters;

    impl Embedder for Letters {
        fn id(&self) -> &'static str {
            "letters"
        }

        fn dimension(&self) -> usize {
            2
        }

        fn window(&self) -> usize {
            usize::MAX
        }

        fn count_tokens(&self, text: &str) -> usize {
            text.len()
        }

        fn embed(&self, _: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
            let count = |text: &str, letter| text.matches(letter).count() as f32;
            Ok(texts.iter().map(|text| vec![count(text, 'a'), count(text, 'b')]).collect())
        }
    }

    /// Weights that name the label of the largest count, but with `C` 1 always the first label.
    struct Counting;

    impl ClassifierTrainer for Counting {
        fn fit(
            &self,
            _: &[Vec<f32>],
            labels: &[String],
            c: f64,
        ) -> Result<LinearClassifier, BackendError> {
            let mut labels = labels.to_vec();
            labels.sort();
            labels.dedup();
            Ok(LinearClassifier {
                labels,
                weights: vec![vec![c, 0.0], vec![0.0, c]],
                intercepts: vec![if c > 1.0 { 0.0 } else { 100.0 }, 0.0],
            })
        }
    }

    fn completion(input: &str, reference: &str) -> TrainRow {
        TrainRow::Completion { input: input.into(), reference: reference.into() }
    }

    fn sample(input: &str, reference: &str) -> Sample {
        Sample { input: input.into(), reference: reference.into(), ..Sample::default() }
    }

    #[test]
    fn labels_are_few_and_come_again() {
        let few = [completion("1", "yes"), completion("2", "no"), completion("3", "yes ")];
        assert_eq!(problem(&[&few[..], &few[..]].concat()), None);
        let texts: Vec<TrainRow> =
            (0..6).map(|i| completion("q", &format!("answer {i}"))).collect();
        let found = problem(&texts).unwrap();
        assert!(found.contains("6 training rows have 6 different references"), "{found}");
        assert!(problem(&[completion("1", "yes"), completion("2", "yes")]).is_some());
        let text = [completion("1", "yes"), TrainRow::Text("running text".into())];
        assert_eq!(problem(&text).unwrap(), "1 of 2 training rows have no `reference`");
    }

    #[tokio::test]
    async fn the_penalty_is_chosen_on_dev_and_the_classifier_answers() {
        let rows = [completion("aa", "first"), completion("bb", "second")];
        let dev = [sample("ab b", "second"), sample("aab", "first")];
        let settings = Features { c: vec![9.0, 1.0], limit: None };
        let lesson =
            Lesson { settings: &settings, embedder: &Letters, rows: labelled(&rows), dev: &dev };
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("fitted");
        let fitted = lesson.fit(&Counting, &folder).unwrap();
        assert_eq!((fitted.entry.c, fitted.entry.labels), (9.0, 2));
        let accuracies: Vec<f64> = fitted.entry.tried.iter().map(|tried| tried.accuracy).collect();
        assert_eq!(accuracies, [0.5, 1.0]);
        assert_eq!(fitted.outcome.served, Served::Classifier);
        // The second time it is found.
        assert_eq!(lesson.fit(&Counting, &folder).unwrap(), fitted);

        let answers = Classifies::open(&folder, Arc::new(Letters)).unwrap();
        let request = Request {
            messages: vec![Message::user("babb")],
            max_tokens: 8,
            temperature: 0.0,
            top_p: None,
            seed: 0,
            stop: Vec::new(),
            constraint: None,
            top_logprobs: 0,
        };
        let said = answers.generate(&request).await.unwrap();
        assert_eq!((said.text.as_str(), said.tokens_in, said.tokens_out), ("second", 0, 0));
    }
}
