//! Measuring judges on samples that people have judged.

use std::path::PathBuf;
use std::sync::Arc;

use bench_core::backend::{BackendError, BackendErrorKind, Generator, Progress, Stage};
use bench_core::digest;
use bench_core::judging::{JudgedItem, JudgedItems, Measured};
use bench_core::record::{Preference, Verdict};
use bench_core::spec::{Judge, JudgeMode};
use futures::stream::{self, StreamExt as _};
use tokio::runtime::Runtime;

use crate::backends::{Backends, ResolvedModel};
use crate::load::{LabelledRow, LoadedCalibration};
use crate::parity::prove;
use crate::run::{Options, RunError, Stop};
use crate::score::{Effort, PairJudge, RubricJudge, jury};
use crate::store::Store;

/// Asks every judge about every sample, or goes on with it: what a judge has said is not asked
/// again.
///
/// # Errors
/// When a judge cannot start or a fatal failure stops it. What was said until then is kept.
pub fn calibrate(
    loaded: &LoadedCalibration,
    backends: &dyn Backends,
    options: &Options,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Measured, RunError> {
    let calibration = &loaded.calibration;
    let folder = PathBuf::from(&calibration.run.runs).join(format!("judge-{}", calibration.name));
    let mut store = Store::open(&folder)?;
    let judge = &calibration.judge;
    let mut models = Vec::new();
    for name in judge.names() {
        let model = backends.resolve(name, &calibration.models[name], progress)?;
        models.push((name, model));
    }
    let runtime = Runtime::new().map_err(|error| BackendError::fatal("tokio", error))?;
    let mut works = Vec::new();
    let mut missing = 0;
    stop.will_end(true);
    for (name, model) in &models {
        let mut bench = Bench { loaded, name, model, options, progress, stop, store: &mut store };
        bench.ask(backends, &runtime)?;
        let (work, without) = bench.work();
        missing += without;
        works.push(work);
    }
    stop.will_end(false);
    if works.len() > 1 {
        works.push(together(judge, &works));
    }
    Ok(Measured {
        format: Measured::FORMAT,
        program: options.program.clone(),
        calibration: calibration.clone(),
        files: loaded.files.clone(),
        models: models.into_iter().map(|(name, model)| (name.to_owned(), model.entry)).collect(),
        machine: options.machine.clone(),
        judges: works,
        missing,
    })
}

/// One judge on its bench.
struct Bench<'a> {
    loaded: &'a LoadedCalibration,
    name: &'a str,
    model: &'a ResolvedModel,
    options: &'a Options,
    progress: &'a dyn Progress,
    stop: &'a Stop,
    store: &'a mut Store,
}

/// What the judge said.
enum Said {
    Grade(Verdict),
    Preference(Preference),
}

impl Bench<'_> {
    fn judge(&self) -> &Judge {
        &self.loaded.calibration.judge
    }

    fn key(&self, row: &LabelledRow, repeat: u32) -> String {
        let judge = self.judge();
        let key = digest::of_json(&(
            ("calibrate", RubricJudge::VERSION, PairJudge::VERSION),
            &self.model.entry.digest,
            &self.loaded.rubric,
            &judge.grades,
            (&row.sample.input, &row.sample.reference, &row.sample.aliases),
            (&row.answer, &row.rival),
            judge.temperature,
            repeat,
        ));
        if judge.shows_the_usual() {
            return key;
        }
        let shown: Vec<_> = row.passages.iter().map(|one| (&one.title, &one.text)).collect();
        digest::of_json(&(key, &judge.shows, shown))
    }

    fn is_known(&self, key: &str) -> bool {
        let value = match self.judge().mode {
            JudgeMode::Rubric => self.store.verdict(key).map(|v| v.value().is_some()),
            JudgeMode::Pairwise => self.store.preference(key).map(|p| p.value().is_some()),
        };
        value.is_some_and(|decided| decided || !self.options.retry_failed)
    }

    fn ask(&mut self, backends: &dyn Backends, runtime: &Runtime) -> Result<(), RunError> {
        let loaded = self.loaded;
        let mut pending: Vec<(String, &LabelledRow, u32)> = Vec::new();
        for row in &loaded.rows {
            for repeat in 0..self.judge().repeats.get() {
                let key = self.key(row, repeat);
                if !self.is_known(&key) && !pending.iter().any(|(other, ..)| *other == key) {
                    pending.push((key, row, repeat));
                }
            }
        }
        if pending.is_empty() || self.stop.is_requested() {
            return Ok(());
        }
        let generator: Arc<dyn Generator> = backends.load(self.model, None)?;
        let with = (&mut *self.store, runtime, self.progress);
        prove(backends, self.model, generator.as_ref(), with)?;
        let judge = &loaded.calibration.judge;
        let rubric = loaded.rubric.clone();
        let pairs = PairJudge::new(judge, rubric.clone(), Arc::clone(&generator));
        let grades = RubricJudge::new(judge, rubric, generator);
        let task = self.progress.begin(Stage::Judge, self.name, pending.len() as u64);
        let wanted = self.options.concurrency.unwrap_or(loaded.calibration.run.max_concurrency);
        let (store, stop, name) = (&mut *self.store, self.stop, self.name);
        runtime.block_on(async {
            let (pairs, grades) = (&pairs, &grades);
            let mut replies = stream::iter(pending.iter().take_while(|_| !stop.is_requested()))
                .map(|(key, row, repeat)| async move {
                    (key, said(row, u64::from(*repeat), pairs, grades).await)
                })
                .buffer_unordered(wanted.max(1) as usize);
            let mut done = 0;
            while let Some((key, result)) = replies.next().await {
                let (said, effort) = match result {
                    Ok(reply) => reply,
                    Err(error) if error.kind == BackendErrorKind::Fatal => {
                        return Err(RunError::from(error));
                    }
                    Err(error) => {
                        (Said::Grade(Verdict::unscored(error.chain())), Effort::default())
                    }
                };
                match said {
                    Said::Grade(verdict) => store.put_verdict(key, verdict)?,
                    Said::Preference(preference) => store.put_preference(key, preference)?,
                }
                let took = store.state.judging.entry(name.to_owned()).or_default();
                took.judgements += 1;
                took.latency_ms += effort.latency_ms;
                took.tokens_in += effort.tokens_in;
                took.tokens_out += effort.tokens_out;
                done += 1;
                task.advance(done, "");
            }
            Ok(())
        })?;
        Ok(self.store.save_state()?)
    }

    /// What the judge has said of every sample, and how many it has not judged.
    fn work(&self) -> (JudgedItems, u64) {
        let calibration = &self.loaded.calibration;
        let judge = &calibration.judge;
        let is_pairwise = judge.mode == JudgeMode::Pairwise;
        let (mut items, mut longer, mut missing) = (Vec::new(), Vec::new(), 0);
        let on_scale = |place: f64| {
            let ends = judge.grades.first().zip(judge.grades.last());
            ends.map_or(place, |(&worst, &best)| f64::from(worst) + place * f64::from(best - worst))
        };
        for row in &self.loaded.rows {
            let keys = (0..judge.repeats.get()).map(|repeat| self.key(row, repeat));
            let mut item = JudgedItem {
                id: row.sample.id.clone(),
                label: Some(row.label),
                people: row.people.clone(),
                ..JudgedItem::default()
            };
            for key in keys {
                if is_pairwise {
                    let Some(preference) = self.store.preference(&key) else { continue };
                    item.judge.push(preference.value());
                    item.consistent.extend(match preference {
                        Preference::First | Preference::Second => Some(true),
                        Preference::Tie { consistent } => Some(*consistent),
                        Preference::Unscored { .. } => None,
                    });
                    longer.extend(prefers_longer(row, preference));
                } else if let Some(verdict) = self.store.verdict(&key) {
                    item.judge.push(verdict.value().map(on_scale));
                }
            }
            if item.judge.is_empty() {
                missing += 1;
            } else {
                items.push(item);
            }
        }
        let took = self.store.state.judging.get(self.name).cloned().unwrap_or_default();
        let price = calibration.prices.get(self.name);
        let cost_usd = price.map(|price| {
            (took.tokens_in as f64 * price.input + took.tokens_out as f64 * price.output) / 1e6
                + took.latency_ms / 3.6e6 * price.machine_hour
        });
        let judge = self.name.to_owned();
        (JudgedItems { judge, items, longer, took, cost_usd, is_pairwise }, missing)
    }
}

async fn said(
    row: &LabelledRow,
    seed: u64,
    pairs: &PairJudge,
    grades: &RubricJudge,
) -> Result<(Said, Effort), BackendError> {
    let LabelledRow { sample, passages, answer, rival, .. } = row;
    Ok(if let Some(rival) = rival {
        let (preference, effort) = pairs.compare(sample, answer, rival, seed).await?;
        (Said::Preference(preference), effort)
    } else {
        let (verdict, effort) = grades.judge(sample, passages, answer, seed).await?;
        (Said::Grade(verdict), effort)
    })
}

/// Whether the longer answer was preferred, where one was and they differ in length.
fn prefers_longer(row: &LabelledRow, preference: &Preference) -> Option<bool> {
    let first = row.answer.chars().count();
    let second = row.rival.as_ref()?.chars().count();
    match preference {
        Preference::First if first != second => Some(first > second),
        Preference::Second if first != second => Some(second > first),
        _ => None,
    }
}

/// The jury of all judges: its value is the mean or the majority of theirs.
fn together(judge: &Judge, works: &[JudgedItems]) -> JudgedItems {
    let Some(first) = works.first() else { return JudgedItems::default() };
    let items = first.items.iter().filter_map(|item| {
        let same = |work: &&JudgedItems| work.items.iter().any(|other| other.id == item.id);
        if !works.iter().all(|work| same(&work)) {
            return None;
        }
        let verdicts: Vec<(&str, Verdict)> = works
            .iter()
            .filter_map(|work| {
                let other = work.items.iter().find(|other| other.id == item.id)?;
                let values: Vec<f64> = other.judge.iter().flatten().copied().collect();
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let verdict = match (values.is_empty(), first.is_pairwise) {
                    (true, _) => Verdict::unscored("no judgement"),
                    (false, true) => Verdict::scored(mean),
                    (false, false) => Verdict::scored(judge.place(mean)),
                };
                Some((work.judge.as_str(), verdict))
            })
            .collect();
        // A preference is a grade on the scale of lost, tied, won.
        let scale = if first.is_pairwise {
            Judge { grades: vec![0, 1, 2], ..judge.clone() }
        } else {
            judge.clone()
        };
        let value = jury::combined(&scale, &verdicts).value();
        let value = value.map(|place| match (first.is_pairwise, judge.grades.as_slice()) {
            (false, [worst, .., best]) => f64::from(*worst) + place * f64::from(best - worst),
            _ => place,
        });
        Some(JudgedItem { judge: vec![value], consistent: Vec::new(), ..item.clone() })
    });
    JudgedItems {
        judge: "jury".into(),
        items: items.collect(),
        is_pairwise: first.is_pairwise,
        ..JudgedItems::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::load_calibration;
    use crate::scripted::{Quiet, ScriptedBackends};

    const JUDGES: &str = r#"models:
  kind: { scripted: { otherwise: '{"reason": "so", "grade": 1}' } }
  fair: { scripted: { otherwise: '{"reason": "so", "grade": 0}', rules: [{ when: "\nyes\n", say: '{"reason": "so", "grade": 1}' }] } }
  mute: { scripted: { otherwise: hm } }
"#;

    fn measured(yaml: &str, rows: &str) -> Measured {
        let folder = tempfile::tempdir().unwrap();
        let runs = folder.path().join("runs").display().to_string();
        let yaml = format!("version: 1\n{yaml}run: {{ runs: {runs} }}\n");
        fs_err::write(folder.path().join("j.yaml"), yaml).unwrap();
        fs_err::write(folder.path().join("l.jsonl"), rows).unwrap();
        let loaded = load_calibration(&folder.path().join("j.yaml"), &|_| None, None).unwrap();
        let run = || {
            let (options, stop) = (Options::default(), Stop::default());
            calibrate(&loaded, &ScriptedBackends, &options, &Quiet, &stop).unwrap()
        };
        let first = run();
        assert_eq!(first, run(), "a second measurement asks nothing");
        first
    }

    #[test]
    fn every_judge_s_grades_stand_beside_people_s() {
        let row = |id: usize, answer: &str, label: u32| {
            format!(
                "{{\"id\":\"{id}\",\"input\":\"q\",\"reference\":\"{label}\",\"meta\":{{\"response\":\"{answer}\"}}}}\n"
            )
        };
        let rows = row(1, "yes", 1) + &row(2, "no", 0) + &row(3, "yes", 0);
        let yaml = format!(
            "{JUDGES}judge: {{ judges: [kind, fair, mute], rubric: '0 wrong 1 right', grades: [0, 1], combine: majority }}\nlabelled: {{ path: l.jsonl }}\n"
        );
        let measured = measured(&yaml, &rows);
        let said = |at: usize| -> Vec<Option<f64>> {
            measured.judges[at].items.iter().map(|item| item.judge[0]).collect()
        };
        assert_eq!(said(0), [Some(1.0); 3]);
        assert_eq!(said(1), [Some(1.0), Some(0.0), Some(1.0)]);
        assert_eq!(said(2), [None; 3]);
        assert_eq!((measured.judges[3].judge.as_str(), said(3)[0]), ("jury", Some(1.0)));
        let labels: Vec<Option<f64>> = measured.judges[1].items.iter().map(|i| i.label).collect();
        assert_eq!(labels, [Some(1.0), Some(0.0), Some(0.0)]);
        // The same answer to the same question is asked about once.
        assert_eq!(measured.judges[0].took.judgements, 2);
    }

    #[test]
    fn a_judge_that_prefers_a_place_is_found_out() {
        let yaml = "models: { first: { scripted: { otherwise: '{\"reason\": \"so\", \"better\": \"A\"}' } } }
judge: { model: first, rubric: better, mode: pairwise, repeats: 2, temperature: 1 }
labelled: { path: l.jsonl }
";
        let rows = "{\"id\":\"1\",\"input\":\"q\",\"reference\":\"1\",\"choices\":[\"long answer\",\"short\"]}\n";
        let measured = measured(yaml, rows);
        let item = &measured.judges[0].items[0];
        assert_eq!(item.judge, [Some(0.5), Some(0.5)]);
        assert_eq!(item.consistent, [false, false]);
        assert!(measured.judges[0].longer.is_empty());
    }
}
