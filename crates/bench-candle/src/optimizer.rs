//! AdamW (Loshchilov and Hutter 2019) over one vector of parameters, the clipping of gradients and
//! the course of the learning rate.

use std::ops::Range;
use std::sync::OnceLock;

use bench_core::spec::{Finetune, LrScheduler, Optimizer};
use rayon::prelude::*;

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// Elements that are summed or updated at a time; fixed, so that sums keep their order.
const CHUNK: usize = 1 << 14;

/// Elements of a block of moments in 8 bits, which share a scale.
const BLOCK: usize = 256;

/// First and second moments, and the steps behind them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AdamW {
    pub(crate) first: Moments,
    pub(crate) second: Moments,
    pub(crate) steps: u64,
}

/// One number per parameter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Moments {
    /// In f32.
    Exact(Vec<f32>),
    /// In codes of 8 bits, with the largest size of each block (Dettmers et al. 2022).
    Coded { codes: Vec<u8>, scales: Vec<f32> },
}

/// How far a step goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates<'a> {
    pub(crate) learning_rate: f64,
    pub(crate) weight_decay: f64,
    /// Parameters whose learning rate is a multiple of that, in order.
    pub(crate) others: &'a [Range<usize>],
    pub(crate) multiple: f64,
}

impl Rates<'_> {
    /// One rate for all.
    #[cfg(test)]
    pub(crate) fn plain(learning_rate: f64, weight_decay: f64) -> Self {
        Self { learning_rate, weight_decay, others: &[], multiple: 1.0 }
    }

    /// The stretches of one rate within `from..to`, each with whether its rate is the other one.
    fn stretches(&self, from: usize, to: usize) -> Vec<(Range<usize>, bool)> {
        let mut stretches = Vec::new();
        let mut at = from;
        let first = self.others.partition_point(|range| range.end <= from);
        for range in self.others[first..].iter().take_while(|range| range.start < to) {
            if range.start > at {
                stretches.push((at..range.start, false));
            }
            stretches.push((range.start.max(at)..range.end.min(to), true));
            at = range.end.min(to);
        }
        if at < to {
            stretches.push((at..to, false));
        }
        stretches
    }
}

/// The constants of a step.
#[derive(Clone, Copy)]
struct Sizes {
    size: f32,
    keep: f32,
    correction_2: f32,
    share: f32,
}

impl AdamW {
    pub(crate) fn new(kind: Optimizer, len: usize) -> Self {
        let moments = || match kind {
            Optimizer::Adamw => Moments::Exact(vec![0.0; len]),
            Optimizer::Adamw8bit => Moments::Coded {
                // A block without a scale is zeros, whatever its codes.
                codes: vec![0; len],
                scales: vec![0.0; len.div_ceil(BLOCK)],
            },
        };
        Self { first: moments(), second: moments(), steps: 0 }
    }

    /// One step down the gradient, which counts `share` times.
    pub(crate) fn step(
        &mut self,
        parameters: &mut [f32],
        gradient: &[f32],
        share: f32,
        rates: Rates<'_>,
    ) {
        self.steps += 1;
        let steps = self.steps as f64;
        let correction_1 = 1.0 - f64::from(BETA_1).powf(steps);
        let correction_2 = (1.0 - f64::from(BETA_2).powf(steps)).sqrt() as f32;
        let sizes = [1.0, rates.multiple].map(|multiple| {
            let rate = rates.learning_rate * multiple;
            let size = (rate / correction_1) as f32;
            let keep = (1.0 - rate * rates.weight_decay) as f32;
            Sizes { size, keep, correction_2, share }
        });
        let part = |from: usize,
                    parameters: &mut [f32],
                    gradient: &[f32],
                    first: &mut [f32],
                    second: &mut [f32]| {
            for (stretch, other) in rates.stretches(from, from + parameters.len()) {
                let stretch = stretch.start - from..stretch.end - from;
                update(
                    &mut parameters[stretch.clone()],
                    &gradient[stretch.clone()],
                    &mut first[stretch.clone()],
                    &mut second[stretch],
                    sizes[usize::from(other)],
                );
            }
        };
        let chunks = parameters.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).enumerate();
        match (&mut self.first, &mut self.second) {
            (Moments::Exact(first), Moments::Exact(second)) => {
                let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
                chunks.zip(moments).for_each(
                    |((index, (parameters, gradient)), (first, second))| {
                        part(index * CHUNK, parameters, gradient, first, second);
                    },
                );
            }
            (first, second) => {
                let moments = first.par_blocks().zip(second.par_blocks());
                chunks.zip(moments).for_each(|((index, (parameters, gradient)), moments)| {
                    let (mut first, mut second) = ([0.0; BLOCK], [0.0; BLOCK]);
                    let blocks = parameters.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK));
                    let ((first_codes, first_scales), (second_codes, second_scales)) = moments;
                    let firsts = first_codes.chunks_mut(BLOCK).zip(first_scales);
                    let seconds = second_codes.chunks_mut(BLOCK).zip(second_scales);
                    for (i, ((parameters, gradient), (f, s))) in
                        blocks.zip(firsts.zip(seconds)).enumerate()
                    {
                        let n = parameters.len();
                        let (first, second) = (&mut first[..n], &mut second[..n]);
                        Codes::signed().decode(f.0, *f.1, first);
                        Codes::unsigned().decode(s.0, *s.1, second);
                        part(index * CHUNK + i * BLOCK, parameters, gradient, first, second);
                        *f.1 = Codes::signed().encode(first, f.0);
                        *s.1 = Codes::unsigned().encode(second, s.0);
                    }
                });
            }
        }
    }
}

impl Moments {
    /// Codes and scales of [`CHUNK`] elements at a time; none of exact moments.
    fn par_blocks(&mut self) -> impl IndexedParallelIterator<Item = (&mut [u8], &mut [f32])> {
        let (codes, scales): (&mut [u8], &mut [f32]) = match self {
            Self::Exact(_) => (&mut [], &mut []),
            Self::Coded { codes, scales } => (codes, scales),
        };
        codes.par_chunks_mut(CHUNK).zip(scales.par_chunks_mut(CHUNK / BLOCK))
    }

    /// Bytes in memory.
    pub(crate) fn bytes(kind: Optimizer, len: usize) -> usize {
        match kind {
            Optimizer::Adamw => 4 * len,
            Optimizer::Adamw8bit => len + 4 * len.div_ceil(BLOCK),
        }
    }
}

fn update(
    parameters: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    sizes: Sizes,
) {
    let Sizes { size, keep, correction_2, share } = sizes;
    let values = parameters.iter_mut().zip(gradient).zip(first).zip(second);
    for (((parameter, gradient), first), second) in values {
        let gradient = gradient * share;
        *first = BETA_1 * *first + (1.0 - BETA_1) * gradient;
        *second = BETA_2 * *second + (1.0 - BETA_2) * gradient * gradient;
        *parameter *= keep;
        *parameter -= size * *first / (second.sqrt() / correction_2 + EPSILON);
    }
}

/// What codes of 8 bits stand for: steps that are equal within each of seven decades, finer in
/// the higher ones (Dettmers 2016).
struct Codes {
    /// Ascending, from -1 or 0 to 1.
    values: Vec<f32>,
    /// Between neighbours, the first after the largest value left out.
    middles: Vec<f32>,
    /// The code of the smallest value above 0 where none is negative.
    least: Option<u8>,
}

impl Codes {
    fn signed() -> &'static Self {
        static CODES: OnceLock<Codes> = OnceLock::new();
        CODES.get_or_init(|| Self::new(true))
    }

    /// Nothing above 0 is rounded to 0: a second moment of 0 would make its step a large one.
    fn unsigned() -> &'static Self {
        static CODES: OnceLock<Codes> = OnceLock::new();
        CODES.get_or_init(|| Self::new(false))
    }

    fn new(signed: bool) -> Self {
        let mut values = vec![0.0, 1.0];
        for decade in 0..7 {
            let top = 10f64.powi(decade - 6);
            let steps = if signed { 1 << decade } else { 2 << decade };
            for step in 0..steps {
                let middle = 0.1 + 0.9 * (f64::from(step) + 0.5) / f64::from(steps);
                values.push((top * middle) as f32);
                if signed {
                    values.push(-(top * middle) as f32);
                }
            }
        }
        values.sort_by(f32::total_cmp);
        let middles = values.windows(2).map(|pair| f32::midpoint(pair[0], pair[1])).collect();
        Self { values, middles, least: (!signed).then_some(1) }
    }

    fn decode(&self, codes: &[u8], scale: f32, out: &mut [f32]) {
        for (out, code) in out.iter_mut().zip(codes) {
            *out = self.values[usize::from(*code)] * scale;
        }
    }

    /// Gives the scale: the largest size in the block.
    fn encode(&self, values: &[f32], codes: &mut [u8]) -> f32 {
        let scale = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (value, code) in values.iter().zip(codes) {
            let part = value * inverse;
            *code = self.middles.partition_point(|middle| *middle < part) as u8;
            if let Some(least) = self.least
                && *value > 0.0
            {
                *code = (*code).max(least);
            }
        }
        scale
    }
}

/// The Euclidean norm of a gradient; not finite as soon as one element is not.
pub(crate) fn norm(gradient: &[f32]) -> f64 {
    let squares = |chunk: &[f32]| chunk.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>();
    let sums: Vec<f64> = gradient.par_chunks(CHUNK).map(squares).collect();
    sums.iter().sum::<f64>().sqrt()
}

/// What a gradient of this norm is multiplied by so that its norm is at most `most`; 0 is no limit.
pub(crate) fn clip(norm: f64, most: f64) -> f32 {
    if most > 0.0 && norm > most { (most / (norm + 1e-6)) as f32 } else { 1.0 }
}

/// The learning rate of a step, counted from 1. The rate rises in equal steps to its peak, and then
/// falls so that the step after the last would be at 0.
pub(crate) fn learning_rate(settings: &Finetune, step: u64, steps: u64) -> f64 {
    let peak = settings.learning_rate;
    let warmup = (settings.warmup_ratio * steps as f64).ceil() as u64;
    if step <= warmup {
        return peak * step as f64 / warmup as f64;
    }
    let done = (step - 1 - warmup) as f64 / (steps - warmup).max(1) as f64;
    match settings.lr_scheduler {
        LrScheduler::Constant => peak,
        LrScheduler::Linear => peak * (1.0 - done),
        LrScheduler::Cosine => peak * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn there_are_256_codes_and_each_stands_for_itself() {
        for codes in [Codes::signed(), Codes::unsigned()] {
            assert_eq!((codes.values.len(), codes.middles.len()), (256, 255));
            let mut found = [0; 256];
            assert_eq!(codes.encode(&codes.values, &mut found).to_bits(), 1f32.to_bits());
            assert!(found.iter().enumerate().all(|(i, code)| i == usize::from(*code)));
        }
        assert!((Codes::signed().values[0] + 0.992_968_75).abs() < 1e-7);
        let mut code = [0; 2];
        Codes::unsigned().encode(&[1.0, 1e-12], &mut code);
        assert_eq!(code[1], 1, "not 0");
    }

    #[test]
    fn moments_in_8_bits_lead_where_exact_ones_lead() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let len = 3 * BLOCK + 17;
        let goal: Vec<f32> = (0..len).map(|_| random.random_range(-1.0..1.0)).collect();
        let distance =
            |x: &[f32]| -> f32 { x.iter().zip(&goal).map(|(x, g)| (x - g).powi(2)).sum() };
        let run = |kind: Optimizer, random: &mut ChaCha8Rng| {
            let (mut x, mut optimizer) = (vec![0.0; len], AdamW::new(kind, len));
            for step in 0..400 {
                let gradient: Vec<f32> = x
                    .iter()
                    .zip(&goal)
                    .map(|(x, goal)| x - goal + random.random_range(-0.1..0.1))
                    .collect();
                let rate = 0.02 * (1.0 - f64::from(step) / 400.0);
                optimizer.step(&mut x, &gradient, 1.0, Rates::plain(rate, 0.0));
            }
            x
        };
        let exact = run(Optimizer::Adamw, &mut ChaCha8Rng::seed_from_u64(2));
        let coded = run(Optimizer::Adamw8bit, &mut ChaCha8Rng::seed_from_u64(2));
        let start = distance(&vec![0.0; len]);
        assert!(distance(&exact) < 0.001 * start, "{} of {start}", distance(&exact));
        assert!(distance(&coded) < 0.001 * start, "{} of {start}", distance(&coded));
        assert!(4 * Moments::bytes(Optimizer::Adamw8bit, 1 << 20) < (4 << 20) + (1 << 17));
    }

    #[test]
    fn a_multiple_of_the_rate_counts_for_its_places_alone() {
        let len = CHUNK + 100;
        let others = [10..20, CHUNK - 5..CHUNK + 5];
        let rates = Rates { learning_rate: 0.1, weight_decay: 0.5, others: &others, multiple: 4.0 };
        let (gradient, mut x) = (vec![1.0; len], vec![1.0; len]);
        AdamW::new(Optimizer::Adamw, len).step(&mut x, &gradient, 1.0, rates);
        for (i, x) in x.iter().enumerate() {
            let rate = if others.iter().any(|range| range.contains(&i)) { 0.4 } else { 0.1 };
            let expected = 1.0 - rate * 0.5 - rate;
            assert!((x - expected).abs() < 1e-5, "{i}: {x}, {expected}");
        }
        let mut coded = vec![1.0; len];
        AdamW::new(Optimizer::Adamw8bit, len).step(&mut coded, &gradient, 1.0, rates);
        assert_eq!(coded, x);
    }
}
