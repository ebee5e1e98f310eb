//! Answers of a multiple choice that are not written but chosen: the likeliest choice.

use std::time::Instant;

use bench_core::backend::{BackendError, Completion, Generator, Probe, ProbeRow, Request};
use bench_core::spec::ChoiceBy;

/// The choice that the model finds likeliest as its whole answer, as a completion whose text is
/// that choice. Of equally likely ones, the first.
///
/// # Errors
/// Backends that do not show the likelihood of a given text refuse.
pub(crate) async fn choose(
    generator: &dyn Generator,
    request: &Request,
    choices: &[String],
    by: ChoiceBy,
) -> Result<Completion, BackendError> {
    let started = Instant::now();
    let rows: Vec<ProbeRow> = choices
        .iter()
        .zip('A'..='Z')
        .map(|(choice, letter)| ProbeRow {
            messages: request.messages.clone(),
            completion: match by {
                ChoiceBy::LetterLikelihood => letter.to_string(),
                ChoiceBy::TextLikelihood | ChoiceBy::Answer => choice.clone(),
            },
        })
        .collect();
    let probes = generator.probe(&rows).await?;
    let values = probes.iter().zip(&rows).map(|(probe, row)| match by {
        ChoiceBy::LetterLikelihood => log_likelihood(probe),
        ChoiceBy::TextLikelihood | ChoiceBy::Answer => {
            log_likelihood(probe) / row.completion.len().max(1) as f64
        }
    });
    let mut best: Option<(usize, f64)> = None;
    for (choice, value) in values.enumerate() {
        if best.is_none_or(|(_, most)| value > most) {
            best = Some((choice, value));
        }
    }
    let (Some((choice, _)), Some(probe)) = (best, probes.first()) else {
        return Err(BackendError::rejected("likelihood", "the sample has no choices"));
    };
    Ok(Completion {
        text: choices[choice].clone(),
        tokens_in: (probe.token_ids.len() - probe.top1.len().min(probe.token_ids.len())) as u32,
        latency_ms: started.elapsed().as_secs_f64() * 1e3,
        finish: "likelihood".into(),
        ..Completion::default()
    })
}

/// Of the whole completion, in nats.
fn log_likelihood(probe: &Probe) -> f64 {
    -probe.nll * probe.top1.len() as f64
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bench_core::chat::Message;

    use super::*;

    /// Finds each byte as likely as told; shows logits for nothing else.
    struct Told(&'static [(&'static str, f64)]);

    #[async_trait]
    impl Generator for Told {
        fn id(&self) -> &'static str {
            "told"
        }
        fn count_tokens(&self, _: &[Message]) -> Result<Option<u32>, BackendError> {
            Ok(None)
        }
        async fn generate(&self, _: &Request) -> Result<Completion, BackendError> {
            Err(BackendError::rejected("told", "writes nothing"))
        }
        async fn probe(&self, rows: &[ProbeRow]) -> Result<Vec<Probe>, BackendError> {
            let probe = |row: &ProbeRow| {
                let found = self.0.iter().find(|(text, _)| *text == row.completion);
                let nll = found.map_or(9.0, |(_, nll)| *nll);
                let n = row.completion.len();
                Probe { token_ids: vec![0; n + 7], top1: vec![0; n], nll }
            };
            Ok(rows.iter().map(probe).collect())
        }
    }

    fn chosen(told: &'static [(&'static str, f64)], by: ChoiceBy) -> Completion {
        let choices = ["red".into(), "ultramarine".into(), "blue".into()];
        let request = Request {
            messages: vec![Message::user("which?")],
            max_tokens: 1,
            temperature: 0.0,
            top_p: None,
            seed: 0,
            stop: Vec::new(),
            constraint: None,
            top_logprobs: 0,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(choose(&Told(told), &request, &choices, by)).unwrap()
    }

    #[test]
    fn the_likeliest_letter_names_its_choice() {
        let completion = chosen(&[("A", 2.0), ("B", 0.5), ("C", 1.0)], ChoiceBy::LetterLikelihood);
        assert_eq!((completion.text.as_str(), completion.tokens_in), ("ultramarine", 7));
        assert_eq!((completion.tokens_out, completion.finish.as_str()), (0, "likelihood"));
    }

    #[test]
    fn a_long_choice_is_not_less_likely_for_its_length() {
        let told = &[("red", 1.0), ("ultramarine", 0.9), ("blue", 1.0)];
        assert_eq!(chosen(told, ChoiceBy::TextLikelihood).text, "ultramarine");
    }

    #[test]
    fn the_first_of_equally_likely_choices_is_taken() {
        assert_eq!(chosen(&[], ChoiceBy::LetterLikelihood).text, "red");
    }
}
