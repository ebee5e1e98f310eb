//! What answers cost, what is paid whether anybody asks or not, and at how many requests a month
//! training pays for itself.

use bench_core::manifest::Manifest;
use bench_core::record::Record;
use bench_core::spec::BreakEven;
use bench_stats::{Comparison, Estimate, Options, compare, estimate};

use crate::evaluation::{Contender, Evaluation, SetResult};

/// Hours of a month: 365.25 days a year.
const MONTH_HOURS: f64 = 730.5;
/// Weeks of a month.
const MONTH_WEEKS: f64 = 365.25 / 12.0 / 7.0;
/// Bytes of a number in an adapter or an index.
const NUMBER_BYTES: f64 = 4.0;

/// What one contender costs.
#[derive(Clone, Debug)]
pub(crate) struct Costing {
    /// US dollars per answer by the price list, nothing cached, with its interval.
    pub(crate) per_answer: Estimate,
    /// Mean prompt tokens that a provider's cache would serve, at the assumed hit rate.
    pub(crate) cached_tokens: f64,
    /// US dollars per answer with them at the cached price.
    pub(crate) cached: Estimate,
    /// US dollars per month that do not depend on requests: hosting, idle machine hours, storage.
    pub(crate) per_month: f64,
    /// US dollars of one training.
    pub(crate) training: f64,
    /// Trainings within the months of [`BreakEven`].
    pub(crate) trainings: f64,
}

/// Months, and how far prices of answering fall in them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Horizon {
    pub(crate) months: f64,
    /// What a month's answering costs on average, 1 where prices stay.
    pub(crate) price: f64,
}

impl Horizon {
    pub(crate) fn of(assumed: &BreakEven) -> Self {
        let left = 1.0 - assumed.price_fall_percent / 100.0;
        let months = assumed.months.max(1);
        let sum: f64 = (0..months).map(|month| left.powf(f64::from(month) / 12.0)).sum();
        Self { months: f64::from(months), price: sum / f64::from(months) }
    }
}

impl Costing {
    /// `None` where the experiment names no price for the model, or nobody counted the tokens that
    /// it is paid by.
    pub(crate) fn of(evaluation: &Evaluation<'_>, contender: &Contender<'_>) -> Option<Self> {
        let manifest = evaluation.manifest;
        let assumed = &manifest.experiment.break_even;
        let plan = &evaluation.plans[contender.arm];
        let price = manifest.experiment.prices.of(&plan.model, plan.finetune.is_some())?;
        contender.usage.cost?;
        let costs: Vec<f64> =
            contender.trials.iter().filter_map(|record| record.answer()?.cost_usd).collect();
        // Costs of samples in one cluster are as good as independent: lengths decide them.
        let per_answer = mean(&costs, &evaluation.options)?;
        let cached_tokens = price.cached_input.map_or(0.0, |_| {
            shared_prefix(contender, assumed.cache_min_tokens) * assumed.cache_hit_rate
        });
        let discount =
            price.cached_input.map_or(0.0, |cached| cached_tokens * (price.input - cached) / 1e6);
        let cached = Estimate {
            mean: (per_answer.mean - discount).max(0.0),
            low: (per_answer.low - discount).max(0.0),
            high: (per_answer.high - discount).max(0.0),
            ..per_answer.clone()
        };
        let idle = if contender.training.is_some() {
            assumed.idle_hours * price.machine_hour * Horizon::of(assumed).price
        } else {
            0.0
        };
        let storage = manifest.experiment.prices.list().map_or(0.0, |list| list.storage_gb_month);
        let training = contender.training_cost.unwrap_or(0.0);
        let trainings = match (contender.training, assumed.retrain_weeks) {
            (None, _) => 0.0,
            (Some(_), None) => 1.0,
            (Some(_), Some(weeks)) => {
                (f64::from(assumed.months) * MONTH_WEEKS / weeks).ceil().max(1.0)
            }
        };
        Some(Self {
            per_answer,
            cached_tokens,
            cached,
            per_month: price.hosting_hour * MONTH_HOURS
                + idle
                + storage * gigabytes(manifest, &plan.name, contender),
            training,
            trainings,
        })
    }

    /// US dollars a month at a number of requests, trainings spread over the months, at the mean
    /// cost of an answer or one of its ends.
    pub(crate) fn monthly(&self, requests: f64, answer: f64, horizon: &Horizon) -> f64 {
        self.fixed(horizon) + requests * answer * horizon.price
    }

    /// US dollars a month without any request.
    pub(crate) fn fixed(&self, horizon: &Horizon) -> f64 {
        self.per_month + self.training * self.trainings / horizon.months
    }
}

/// A mean with its interval; a single value or values without spread have an interval of no width.
fn mean(values: &[f64], options: &Options) -> Option<Estimate> {
    let clusters = bench_stats::Clusters::none();
    estimate(values, &clusters, options).or_else(|| {
        let mean = *values.first().filter(|value| value.is_finite())?;
        let constant = bench_stats::Method::Constant;
        let level = options.level;
        (values.len() == 1).then_some(Estimate {
            n: 1,
            clusters: None,
            mean,
            standard_error: 0.0,
            low: mean,
            high: mean,
            level,
            method: constant,
        })
    })
}

/// Gigabytes of the contender's adapter and of the index that it searches.
fn gigabytes(manifest: &Manifest, arm: &str, contender: &Contender<'_>) -> f64 {
    let adapter = contender
        .training
        .map_or(0.0, |entry| entry.outcome.trainable_parameters as f64 * NUMBER_BYTES);
    let index: f64 = manifest
        .indexes
        .iter()
        .filter(|entry| entry.arms.iter().any(|name| name == arm))
        .map(|entry| entry.info.chunks as f64 * entry.info.dimension as f64 * NUMBER_BYTES)
        .fold(0.0, f64::max);
    (adapter + index) / 1e9
}

/// Mean prompt tokens of the beginning that all prompts of a contender share, 0 below `least`: the
/// share of its characters in the prompt, of the tokens measured.
fn shared_prefix(contender: &Contender<'_>, least: u32) -> f64 {
    let text = |record: &Record| -> String {
        record.prompt.iter().map(|turn| turn.content.as_str()).collect::<Vec<_>>().join("\n")
    };
    let trials = || contender.prompted().iter().filter(|record| record.answer().is_some());
    let Some(first) = trials().next() else { return 0.0 };
    let common = text(first);
    let mut shared = common.chars().count();
    let mut tokens = 0.0;
    let mut characters = 0.0;
    let mut answers = 0.0;
    for record in trials() {
        let own = text(record);
        shared = common.chars().zip(own.chars()).take(shared).take_while(|(a, b)| a == b).count();
        characters += own.chars().count() as f64;
        answers += 1.0;
        tokens += record.answer().map_or(0.0, |answer| f64::from(answer.tokens_in));
    }
    let prefix = shared as f64 * tokens / characters.max(1.0);
    // One prompt alone is all prefix, which says nothing.
    if answers < 2.0 || prefix < f64::from(least) { 0.0 } else { prefix }
}

/// A trained contender against one whose answers cost more or less.
pub(crate) struct Rivalry {
    pub(crate) trained: usize,
    pub(crate) other: usize,
    /// US dollars of one training.
    pub(crate) training_cost: f64,
    /// US dollars saved per answer, with the ends of its interval: by the price list, nothing cached.
    pub(crate) saving: [f64; 3],
    /// With what the caches of both serve.
    pub(crate) cached_saving: [f64; 3],
    /// At the saving as measured, at its upper and at its lower end.
    pub(crate) requests: [Requests; 3],
    /// The trained contender against the other on the deciding metric.
    pub(crate) quality: Option<Comparison>,
}

/// Requests a month at which the trained contender is the cheaper one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Requests {
    /// At any number.
    Always,
    /// From this number on.
    From(f64),
    /// Only up to this number: it costs less to keep, and more to ask.
    UpTo(f64),
    /// At none.
    Never,
}

impl Requests {
    /// `fixed` is what the trained one costs more per month without requests, `saving` what it saves
    /// per request.
    pub(crate) fn of(fixed: f64, saving: f64) -> Self {
        if saving > 0.0 {
            return if fixed > 0.0 { Self::From((fixed / saving).ceil()) } else { Self::Always };
        }
        if saving < 0.0 {
            return if fixed < 0.0 { Self::UpTo((fixed / saving).floor()) } else { Self::Never };
        }
        if fixed > 0.0 { Self::Never } else { Self::Always }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::From(_) => "from",
            Self::UpTo(_) => "up_to",
            Self::Never => "never",
        }
    }

    pub(crate) fn count(self) -> Option<f64> {
        match self {
            Self::Always => Some(0.0),
            Self::From(count) | Self::UpTo(count) => Some(count),
            Self::Never => None,
        }
    }
}

impl Rivalry {
    /// Answers after which the first training alone is paid for, at the saving as measured, at its
    /// upper and at its lower end; `None` is never.
    pub(crate) fn answers(&self) -> [Option<f64>; 3] {
        let [saving, low, high] = self.saving;
        [saving, high, low]
            .map(|saving| (saving > 0.0).then(|| (self.training_cost / saving).ceil()))
    }
}

/// What each contender's answers cost; `None` where the experiment names no price.
pub(crate) fn costings<'s>(
    evaluation: &Evaluation<'_>,
    set: &'s SetResult<'_>,
) -> &'s [Option<Costing>] {
    set.once.costings.get_or_init(|| {
        set.contenders.iter().map(|contender| Costing::of(evaluation, contender)).collect()
    })
}

/// Every trained contender with a price against every untrained one, on the samples that both
/// answered.
pub(crate) fn break_even<'s>(evaluation: &Evaluation<'_>, set: &'s SetResult<'_>) -> &'s [Rivalry] {
    set.once.rivalries.get_or_init(|| rivalries(evaluation, set))
}

fn rivalries(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Vec<Rivalry> {
    let horizon = Horizon::of(&evaluation.manifest.experiment.break_even);
    let costings = costings(evaluation, set);
    let mut found = Vec::new();
    for (at, contender) in set.contenders.iter().enumerate() {
        let (Some(training_cost), Some(own)) = (contender.training_cost, &costings[at]) else {
            continue;
        };
        for (other, rival) in set.contenders.iter().enumerate() {
            let Some(theirs) = costings[other].as_ref().filter(|_| rival.training.is_none()) else {
                continue;
            };
            let pairs: Vec<(f64, f64)> = (0..set.samples.len())
                .filter_map(|sample| Some((cost(rival, sample)?, cost(contender, sample)?)))
                .collect();
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let clusters = bench_stats::Clusters::none();
            let Some(c) = compare(&a, &b, &clusters, &evaluation.options) else { continue };
            let saving = [c.difference, c.low, c.high];
            // What the caches save is the same for all answers of a contender.
            let shift = (theirs.cached.mean - theirs.per_answer.mean)
                - (own.cached.mean - own.per_answer.mean);
            let cached_saving = saving.map(|saving| saving + shift);
            let fixed = own.fixed(&horizon) - theirs.fixed(&horizon);
            let [middle, low, high] = cached_saving;
            let requests = [middle, high, low].map(|x| Requests::of(fixed, x * horizon.price));
            let quality = set.primary().and_then(|metric| {
                metric.pairs.iter().find_map(|(a, b, comparison)| {
                    let comparison = comparison.as_ref()?;
                    match (*a, *b) {
                        (a, b) if (a, b) == (at, other) => Some(comparison.clone()),
                        (a, b) if (a, b) == (other, at) => Some(comparison.swapped()),
                        _ => None,
                    }
                })
            });
            found.push(Rivalry {
                trained: at,
                other,
                training_cost,
                saving,
                cached_saving,
                requests,
                quality,
            });
        }
    }
    found
}

fn cost(contender: &Contender<'_>, sample: usize) -> Option<f64> {
    contender.first(sample)?.answer()?.cost_usd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_break_even_is_what_is_paid_ahead_over_what_is_saved() {
        assert_eq!(Requests::of(10.0, 0.01), Requests::From(1000.0));
        assert_eq!(Requests::of(10.0, 0.0), Requests::Never);
        assert_eq!(Requests::of(10.0, -0.01), Requests::Never);
        assert_eq!(Requests::of(0.0, 0.01), Requests::Always);
        assert_eq!(Requests::of(-10.0, 0.01), Requests::Always);
        assert_eq!(Requests::of(-10.0, -0.01), Requests::UpTo(1000.0));
        assert_eq!(Requests::of(0.0, -0.01), Requests::Never);
    }

    #[test]
    fn falling_prices_shrink_what_answering_costs_and_so_what_is_saved() {
        let horizon = |months, fall| {
            Horizon::of(&BreakEven { months, price_fall_percent: fall, ..BreakEven::default() })
        };
        assert!((horizon(12, 0.0).price - 1.0).abs() < 1e-12);
        // Two months at half the price a year: the second costs 0.5^(1/12) of the first.
        let expect = f64::midpoint(1.0, 0.5_f64.powf(1.0 / 12.0));
        assert!((horizon(2, 50.0).price - expect).abs() < 1e-12);
    }
}
