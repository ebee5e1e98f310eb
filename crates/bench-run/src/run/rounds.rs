//! Runs that ask in rounds and stop a set as soon as it has told enough.

use std::collections::BTreeMap;

use bench_core::dataset::Sample;
use bench_core::manifest::StopEntry;
use bench_core::plan;
use bench_core::spec::Scorer;

use super::{Asked, RunError, Runner, Settled};

impl<'a> Runner<'a> {
    /// Asks the samples of every set in random order, in rounds of growing size, and looks at each
    /// set after each of its rounds. What was asked in an earlier run is found in the store, so the
    /// same rounds lead to the same stop.
    pub(super) fn rounds(&mut self, first: usize, settled: Settled) -> Result<Asked<'a>, RunError> {
        let loaded = self.loaded;
        // Per set: each sample's turn, where rounds end, and how far it is to be asked.
        let turns: Vec<BTreeMap<&str, usize>> = loaded
            .sets
            .iter()
            .map(|set| {
                let ids: Vec<&str> = set.samples.iter().map(|sample| sample.id.as_str()).collect();
                let order = plan::asking_order(&ids, loaded.experiment.run.seed);
                order.into_iter().enumerate().map(|(turn, at)| (ids[at], turn)).collect()
            })
            .collect();
        let ends: Vec<Vec<usize>> =
            loaded.sets.iter().map(|set| plan::rounds(first, set.samples.len())).collect();
        let mut until: Vec<usize> = vec![0; ends.len()];
        let mut stopped: Vec<StopEntry> = Vec::new();
        let is_stopped =
            |stopped: &[StopEntry], name: &str| stopped.iter().any(|entry| entry.set == name);
        let n_rounds = ends.iter().map(Vec::len).max().unwrap_or(0);
        let mut asked = Asked {
            trials: Vec::new(),
            answered_now: 0,
            missing: 0,
            unjudged: 0,
            stopped: Vec::new(),
        };
        for round in 0..n_rounds {
            for (index, set) in loaded.sets.iter().enumerate() {
                if !is_stopped(&stopped, &set.spec.name)
                    && let Some(&end) = ends[index].get(round)
                {
                    until[index] = end;
                }
            }
            let due = |set: usize, sample: &Sample| turns[set][sample.id.as_str()] < until[set];
            let (trials, missing, calls) = self.trials(&due)?;
            asked.trials = trials;
            asked.missing = missing;
            asked.answered_now += calls;
            if self.judge_decides() {
                self.judge(&asked.trials)?;
            }
            if self.stop.is_requested() {
                asked.missing += self.left(&until, &stopped);
                break;
            }
            let records = self.records(&asked.trials)?.records;
            for (index, set) in loaded.sets.iter().enumerate() {
                let Some(&end) = ends[index].get(round) else { continue };
                let name = &set.spec.name;
                if is_stopped(&stopped, name) || end == set.samples.len() {
                    continue;
                }
                if let Some(because) = settled(&loaded.experiment, name, &records) {
                    stopped.push(StopEntry {
                        set: name.clone(),
                        asked: end as u64,
                        samples: set.samples.len() as u64,
                        because,
                    });
                }
            }
        }
        asked.unjudged = self.judge(&asked.trials)?;
        asked.stopped = stopped;
        Ok(asked)
    }

    /// Trials on samples that no round has reached, of sets that are not settled.
    fn left(&self, until: &[usize], stopped: &[StopEntry]) -> usize {
        let arms = self.prepared.arms.iter();
        let open = arms.filter(|arm| {
            let name = &self.loaded.sets[arm.set].spec.name;
            !stopped.iter().any(|entry| entry.set == *name)
        });
        let epochs = self.loaded.experiment.run.epochs.get() as usize;
        open.map(|arm| {
            let samples = self.loaded.sets[arm.set].samples.len() - until[arm.set];
            samples * arm.adapters.len() * epochs
        })
        .sum()
    }

    /// Whether any set is decided by the judge, whose verdicts are then needed after every round.
    fn judge_decides(&self) -> bool {
        let mut sets = self.loaded.experiment.eval_sets.iter();
        sets.any(|set| set.scorers.first() == Some(&Scorer::Judge {}))
    }
}
