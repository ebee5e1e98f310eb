//! Where the spread of a score comes from: samples, training seeds, generation seeds, the judge.

use std::collections::BTreeMap;

use bench_core::record::Record;
use bench_stats::{Components, Source, components};

use crate::evaluation::{Evaluation, JUDGE, Metric, SetResult};
use crate::judging::is_judge;
use crate::table::Kind::{Count, Number, Text};
use crate::table::{Table, row};

/// An arm's variance taken apart.
pub(crate) struct ArmVariance {
    pub(crate) arm: String,
    /// Samples scored in every repeat.
    pub(crate) n: usize,
    pub(crate) components: Components,
}

/// Per arm that repeated anything: training seeds, answers or judgements.
pub(crate) fn variances(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
    metric: &Metric,
) -> Vec<ArmVariance> {
    let judge = evaluation.manifest.experiment.judge.as_ref();
    let judgements = judge.filter(|_| is_judge(&metric.name)).map_or(1, |j| j.repeats.get());
    let epochs = evaluation.manifest.experiment.run.epochs.get();
    let arms = evaluation.plans.iter().enumerate();
    arms.filter_map(|(arm, plan)| {
        let trained: Vec<&Vec<&Record>> =
            set.contenders.iter().filter(|c| c.arm == arm).map(|c| &c.trials).collect();
        if trained.len() < 2 && epochs < 2 && judgements < 2 {
            return None;
        }
        // Cell by sample: [training seed][repeat][judgement].
        let mut cells: BTreeMap<&str, Vec<Option<f64>>> = BTreeMap::new();
        let width = trained.len() * epochs as usize * judgements as usize;
        for (seed, trials) in trained.iter().enumerate() {
            for record in *trials {
                let row = cells.entry(&record.trial.sample).or_insert_with(|| vec![None; width]);
                for judgement in 0..judgements {
                    let name = match (is_judge(&metric.name), judgements) {
                        (false, _) => metric.name.clone(),
                        (true, 1) => JUDGE.to_owned(),
                        (true, _) => format!("{JUDGE}#{}", judgement + 1),
                    };
                    let repeat = seed * epochs as usize + record.trial.repeat as usize;
                    let at = repeat * judgements as usize + judgement as usize;
                    if let (Some(cell), Some(verdict)) =
                        (row.get_mut(at), record.verdicts.get(&name))
                    {
                        *cell = verdict.value();
                    }
                }
            }
        }
        let whole: Vec<Vec<f64>> =
            cells.into_values().filter_map(|row| row.into_iter().collect()).collect();
        let column = |seed: usize, repeat: u32, judgement: u32| -> Vec<f64> {
            let repeat = seed * epochs as usize + repeat as usize;
            let at = repeat * judgements as usize + judgement as usize;
            whole.iter().map(|row| row[at]).collect()
        };
        let scores: Vec<Vec<Vec<Vec<f64>>>> = (0..trained.len())
            .map(|seed| {
                let of = |repeat| (0..judgements).map(|j| column(seed, repeat, j)).collect();
                (0..epochs).map(of).collect()
            })
            .collect();
        let components = components(&scores)?;
        Some(ArmVariance { arm: plan.name.clone(), n: whole.len(), components })
    })
    .collect()
}

/// A source in words.
pub(crate) fn words(source: Source) -> &'static str {
    match source {
        Source::Samples => "samples",
        Source::TrainingSeeds => "training seeds",
        Source::SamplesByTrainingSeeds => "samples x training seeds",
        Source::GenerationSeeds => "generation seeds",
        Source::Judge => "the judge",
    }
}

/// `variances.csv`.
pub(crate) fn table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("metric", Text),
        ("arm", Text),
        ("n", Count),
        ("source", Text),
        ("variance", Number),
        ("variance_of_mean", Number),
        ("standard_error_of_mean", Number),
    ]);
    for set in &evaluation.sets {
        let Some(metric) = set.primary() else { continue };
        for found in variances(evaluation, set, metric) {
            for component in &found.components.sources {
                table.push(row![
                    set.set.name.as_str(),
                    metric.name.as_str(),
                    found.arm.as_str(),
                    found.n,
                    words(component.source),
                    component.variance,
                    component.of_mean,
                    found.components.standard_error,
                ]);
            }
        }
    }
    table
}
