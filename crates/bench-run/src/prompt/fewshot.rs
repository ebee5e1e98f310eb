//! Worked examples: which training rows are shown before a question, and in which order.

use std::collections::BTreeSet;
use std::sync::Arc;

use bench_core::backend::{BackendError, Embedder, Purpose};
use bench_core::dataset::{Sample, TrainRow};
use bench_core::digest;
use bench_core::spec::{ExampleOrder, Prompt, Select};
use bench_core::template::Example;

use crate::load::{draw, normal};

/// Worked examples from the training rows.
pub struct Fewshot {
    pool: Vec<Example>,
    /// One per example of the pool, where likeness to the question matters.
    vectors: Vec<Vec<f32>>,
    embedder: Option<Arc<dyn Embedder>>,
    count: usize,
    nearest: bool,
    order: ExampleOrder,
    seed: u64,
}

impl Fewshot {
    /// Chooses what can be chosen before the question is known. Rows whose question is one of
    /// `asked` (see [`asked`]) are never shown.
    ///
    /// # Errors
    /// No embedder where likeness is asked for, or one that fails.
    pub fn new(
        prompt: &Prompt,
        train: &[TrainRow],
        seed: u64,
        embedder: Option<Arc<dyn Embedder>>,
        asked: &BTreeSet<String>,
    ) -> Result<Self, BackendError> {
        let count = prompt.num_fewshot as usize;
        // The draw is by the row's place in the file, so that leaving one out changes no other.
        let all: Vec<(usize, Example)> = examples(train)
            .into_iter()
            .enumerate()
            .filter(|(_, example)| !asked.contains(&normal(&example.input)))
            .collect();
        let mut vectors = Vec::new();
        if needs_embedder(prompt) {
            let embedder = embedder.as_ref().ok_or_else(|| {
                BackendError::fatal("prompt", "examples by likeness need an embedder")
            })?;
            let inputs: Vec<String> = all.iter().map(|(_, one)| one.input.clone()).collect();
            vectors = embedder.embed(Purpose::Passage, &inputs)?;
        }
        let places: Vec<usize> = match prompt.select {
            Select::Fixed => (0..all.len().min(count)).collect(),
            Select::Random => {
                let places: Vec<usize> = (0..all.len()).collect();
                let drawn = draw(&places, count, seed, |_, place| all[*place].0.to_string());
                drawn.into_iter().copied().collect()
            }
            Select::Nearest => (0..all.len()).collect(),
            Select::Diverse => diverse(&vectors, count),
        };
        Ok(Self {
            vectors: places.iter().filter_map(|&place| vectors.get(place).cloned()).collect(),
            pool: places.into_iter().map(|place| all[place].1.clone()).collect(),
            embedder,
            count,
            nearest: prompt.select == Select::Nearest,
            order: prompt.order,
            seed,
        })
    }

    /// How many examples a question gets: fewer than asked for where rows are few.
    pub fn shown(&self) -> usize {
        self.count.min(self.pool.len())
    }

    /// The examples for a sample, in the order in which they stand in the prompt.
    ///
    /// # Errors
    /// An embedder that fails on the question.
    pub fn choose(&self, sample: &Sample) -> Result<Vec<Example>, BackendError> {
        let likeness = if self.nearest || self.order == ExampleOrder::NearestLast {
            self.likeness(&sample.input)?
        } else {
            Vec::new()
        };
        // Rising likeness; of equals the earlier row counts as the more alike.
        let rising = |places: &mut Vec<usize>| {
            places.sort_by(|&a, &b| likeness[a].total_cmp(&likeness[b]).then(b.cmp(&a)));
        };
        let mut places: Vec<usize> = (0..self.pool.len()).collect();
        if self.nearest {
            rising(&mut places);
            places.drain(..places.len().saturating_sub(self.count));
        }
        match self.order {
            ExampleOrder::AsSelected => {}
            ExampleOrder::Reversed => places.reverse(),
            ExampleOrder::Random => places.sort_by_cached_key(|place| {
                let input = &self.pool[*place].input;
                digest::of_json(&("order", self.seed, &sample.id, input))
            }),
            ExampleOrder::NearestLast => rising(&mut places),
        }
        Ok(places.into_iter().map(|place| self.pool[place].clone()).collect())
    }

    fn likeness(&self, question: &str) -> Result<Vec<f32>, BackendError> {
        let embedder = self.embedder.as_ref().ok_or_else(|| {
            BackendError::fatal("prompt", "examples by likeness need an embedder")
        })?;
        let question = embedder.embed(Purpose::Query, &[question.to_owned()])?;
        let question = question.first().map(Vec::as_slice).unwrap_or_default();
        Ok(self.vectors.iter().map(|vector| dot(vector, question)).collect())
    }
}

/// True when choosing or ordering examples compares them.
pub fn needs_embedder(prompt: &Prompt) -> bool {
    matches!(prompt.select, Select::Nearest | Select::Diverse)
        || prompt.order == ExampleOrder::NearestLast
}

/// The questions of these samples, as examples are compared with them.
pub fn asked<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> BTreeSet<String> {
    samples.into_iter().map(|sample| normal(&sample.input)).collect()
}

/// The rows that show a question and its answer.
pub fn examples(train: &[TrainRow]) -> Vec<Example> {
    train
        .iter()
        .filter_map(|row| match row {
            TrainRow::Completion { input, reference } => {
                Some(Example { input: input.clone(), reference: reference.clone() })
            }
            TrainRow::Preference { input, chosen, .. } => {
                Some(Example { input: input.clone(), reference: chosen.clone() })
            }
            TrainRow::Labelled { input, completion, label: true } => {
                Some(Example { input: input.clone(), reference: completion.clone() })
            }
            TrainRow::Labelled { .. } | TrainRow::Text(_) => None,
        })
        .collect()
}

/// Positions of `count` unit vectors that lie apart: first the one nearest to the mean of all, then
/// again and again the one whose nearest chosen vector is farthest away (farthest-first traversal,
/// Gonzalez 1985, which is within a factor of two of the best cover). Ties go to the earlier one.
fn diverse(vectors: &[Vec<f32>], count: usize) -> Vec<usize> {
    let mut mean = vec![0.0; vectors.first().map_or(0, Vec::len)];
    for vector in vectors {
        for (sum, x) in mean.iter_mut().zip(vector) {
            *sum += x;
        }
    }
    let mut chosen = Vec::new();
    // Likeness to the nearest chosen vector.
    let mut nearest = vec![f32::NEG_INFINITY; vectors.len()];
    while chosen.len() < count.min(vectors.len()) {
        let score = |place: usize| {
            if chosen.is_empty() { -dot(&vectors[place], &mean) } else { nearest[place] }
        };
        let next = (0..vectors.len())
            .filter(|place| !chosen.contains(place))
            .min_by(|&a, &b| score(a).total_cmp(&score(b)).then(a.cmp(&b)));
        let Some(next) = next else { break };
        for (place, vector) in vectors.iter().enumerate() {
            nearest[place] = nearest[place].max(dot(vector, &vectors[next]));
        }
        chosen.push(next);
    }
    chosen
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts are places on a circle, in degrees.
    struct Circle;

    impl Embedder for Circle {
        fn id(&self) -> &'static str {
            "circle"
        }

        fn dimension(&self) -> usize {
            2
        }

        fn window(&self) -> usize {
            1
        }

        fn count_tokens(&self, _: &str) -> usize {
            1
        }

        fn embed(&self, _: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
            let place = |text: &String| {
                let angle = text.parse::<f32>().unwrap().to_radians();
                vec![angle.cos(), angle.sin()]
            };
            Ok(texts.iter().map(place).collect())
        }
    }

    fn train(inputs: &[&str]) -> Vec<TrainRow> {
        let row = |input: &&str| TrainRow::Completion {
            input: (*input).to_owned(),
            reference: format!("r{input}"),
        };
        inputs.iter().map(row).collect()
    }

    fn sample(input: &str) -> Sample {
        Sample { id: input.into(), input: input.into(), ..Sample::default() }
    }

    fn prompt(num_fewshot: u32, select: Select, order: ExampleOrder) -> Prompt {
        Prompt { num_fewshot, select, order, ..Prompt::default() }
    }

    #[track_caller]
    fn check(prompt: &Prompt, expect: &[&str]) {
        let rows = train(&["0", "10", "20", "90", "180"]);
        let fewshot =
            Fewshot::new(prompt, &rows, 1, Some(Arc::new(Circle)), &BTreeSet::new()).unwrap();
        let chosen = fewshot.choose(&sample("12")).unwrap();
        assert_eq!(chosen.iter().map(|one| one.input.as_str()).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn examples_are_ordered_as_asked() {
        use ExampleOrder::{AsSelected, NearestLast, Reversed};
        check(&prompt(3, Select::Fixed, AsSelected), &["0", "10", "20"]);
        check(&prompt(3, Select::Fixed, Reversed), &["20", "10", "0"]);
        check(&prompt(3, Select::Fixed, NearestLast), &["0", "20", "10"]);
        check(&prompt(2, Select::Nearest, AsSelected), &["20", "10"]);
        check(&prompt(2, Select::Nearest, Reversed), &["10", "20"]);
    }

    #[test]
    fn diverse_examples_start_in_the_middle_and_lie_apart() {
        // The mean of all points towards 50 degrees; 20 is the nearest row to it. 180 is farthest
        // from 20, and then 90 from both.
        check(&prompt(3, Select::Diverse, ExampleOrder::AsSelected), &["20", "180", "90"]);
    }

    #[test]
    fn a_random_order_differs_by_sample_and_repeats() {
        let rows = train(&["0", "10", "20", "30", "40", "50"]);
        let prompt = prompt(6, Select::Fixed, ExampleOrder::Random);
        let fewshot = Fewshot::new(&prompt, &rows, 1, None, &BTreeSet::new()).unwrap();
        let orders: BTreeSet<Vec<String>> = (0..6)
            .map(|n| {
                let chosen = fewshot.choose(&sample(&n.to_string())).unwrap();
                assert_eq!(chosen, fewshot.choose(&sample(&n.to_string())).unwrap());
                chosen.into_iter().map(|one| one.input).collect()
            })
            .collect();
        assert!(orders.len() > 3, "{orders:?}");
    }

    #[test]
    fn a_question_that_is_asked_is_never_an_example() {
        let rows = train(&["0", "10", "20"]);
        let asked = asked(&[sample(" 10 ")]);
        for select in [Select::Fixed, Select::Random, Select::Nearest, Select::Diverse] {
            let prompt = prompt(3, select, ExampleOrder::AsSelected);
            let fewshot = Fewshot::new(&prompt, &rows, 1, Some(Arc::new(Circle)), &asked).unwrap();
            let chosen = fewshot.choose(&sample("5")).unwrap();
            assert_eq!(fewshot.shown(), 2);
            assert!(chosen.iter().all(|one| one.input != "10"), "{select:?}");
        }
    }

    #[test]
    fn without_likeness_the_examples_are_the_same_for_every_sample() {
        let rows = train(&["0", "10", "20", "30"]);
        let prompt = prompt(3, Select::Random, ExampleOrder::AsSelected);
        let fewshot = Fewshot::new(&prompt, &rows, 1, None, &BTreeSet::new()).unwrap();
        assert_eq!(fewshot.choose(&sample("5")).unwrap(), fewshot.choose(&sample("6")).unwrap());
        let nearest = Prompt { select: Select::Nearest, ..prompt };
        assert!(Fewshot::new(&nearest, &rows, 1, None, &BTreeSet::new()).is_err());
    }
}
