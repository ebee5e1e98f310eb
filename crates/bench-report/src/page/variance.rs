//! What the page says of the spread of scores.

use bench_stats::Source;

use super::{Grid, figure, shown};
use crate::evaluation::{Evaluation, Metric, SetResult};
use crate::text::number;
use crate::variance::{variances, words};

/// Standard deviations of a single score by source, and what each leaves in the arm's mean.
pub(super) fn grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>, metric: &Metric) -> Grid {
    let sources = [
        Source::Samples,
        Source::TrainingSeeds,
        Source::SamplesByTrainingSeeds,
        Source::GenerationSeeds,
        Source::Judge,
    ];
    let mut grid = Grid::new(
        "Where the spread comes from",
        format!(
            "Standard deviation that each source brings to one {} score, and in brackets its share of the variance of the arm's mean: what to repeat more. A source that was not repeated is within the one before it.",
            metric.name
        ),
        &["arm", ">n", ">SE of mean"],
    );
    let found = variances(evaluation, set, metric);
    let has = |source: &Source| {
        found.iter().any(|arm| arm.components.sources.iter().any(|c| c.source == *source))
    };
    let told: Vec<Source> = sources.into_iter().filter(has).collect();
    grid.columns.extend(told.iter().map(|source| super::Head {
        name: words(*source).to_owned(),
        is_number: true,
        is_code: false,
    }));
    for arm in &found {
        let components = &arm.components;
        let mut row = shown![arm.arm.as_str(), arm.n];
        row.push(figure(Some(components.standard_error), number));
        let total: f64 = components.sources.iter().map(|c| c.of_mean).sum();
        for source in &told {
            let own = components.sources.iter().find(|c| c.source == *source);
            row.push(figure(own.map(|c| c.variance.sqrt()), |deviation| {
                let share = own.filter(|_| total > 0.0).map_or(0.0, |c| c.of_mean / total * 100.0);
                deviation.map_or("–".into(), |x| format!("{} ({share:.0} %)", number(x)))
            }));
        }
        grid.rows.push(row);
    }
    grid
}
