//! `bench plan`: what a run would do and what it could find, before anything is loaded.

use std::fmt::Write as _;

use bench_core::dataset::TrainRow;
use bench_core::plan;
use bench_core::spec::{
    ArmPlan, ChunkBy, Chunking, Judge, JudgeMode, ModelSource, PassageSource, Rag, Scorer,
};
use bench_run::score::RubricJudge;
use bench_run::{Loaded, LoadedSet};
use bench_stats::interval::Options;
use bench_stats::power::{Spread, minimum_detectable_difference};

use crate::backends::Real;
use crate::catalog;

/// Characters per token of English text, where the tokenizer is not at hand.
const CHARACTERS_PER_TOKEN: f64 = 4.0;

/// Share of samples on which two arms are taken to differ, before anything is known.
const GUESSED_DISCORDANCE: f64 = 0.3;

/// Tokens a second of a 135M model on two cores; larger models scale with their size.
const RATES: Rates = Rates { prompt: 300.0, answer: 25.0, train: 300.0 };

/// Bytes of the model those rates are for.
const RATED_BYTES: f64 = 540e6;

struct Rates {
    prompt: f64,
    answer: f64,
    train: f64,
}

/// The plan in words and tables.
pub(crate) fn describe(loaded: &Loaded, backends: &Real) -> String {
    let experiment = &loaded.experiment;
    let mut text = String::new();
    let mut seconds = 0.0;
    let mut trials = 0;
    let mut trained = Vec::new();
    writeln!(text, "{} (plan {})", experiment.name, bench_core::digest::short(&loaded.plan_digest))
        .ok();
    writeln!(
        text,
        "\n| set | arm | trials | prompt tokens | answer tokens, at most | train tokens |"
    )
    .ok();
    writeln!(text, "|---|---|---:|---:|---:|---:|").ok();
    for set in &loaded.sets {
        for plan in loaded.plans.iter().filter(|plan| plan.sets.contains(&set.spec.name)) {
            let mut row = estimate(loaded, set, plan);
            // Arms that learn the same from the same rows share one adapter.
            let key = (&set.spec.name, &plan.model, &plan.finetune);
            if trained.contains(&key) {
                row.train = 0.0;
            }
            trained.push(key);
            let scale =
                experiment.models.get(&plan.model).map_or(0.0, |model| scale(backends, model));
            seconds += scale
                * (row.prompt / RATES.prompt
                    + 0.5 * row.answer / RATES.answer
                    + row.train / RATES.train);
            trials += row.trials;
            writeln!(
                text,
                "| {} | {} | {} | {:.0} | {:.0} | {:.0} |",
                set.spec.name, plan.name, row.trials, row.prompt, row.answer, row.train
            )
            .ok();
        }
    }
    let tuned = tuning(loaded, backends);
    if let Some((line, needed)) = &tuned {
        writeln!(text, "\n{line}").ok();
        seconds += needed;
    }
    let (judging, judgements) = judging(loaded, backends);
    text.push_str(&judging.text);
    seconds += judging.seconds;
    let judged =
        if judgements > 0 { format!(" and {judgements} judgements") } else { String::new() };
    writeln!(
        text,
        "\n{trials} trials{judged}, about {:.0} minutes on two cores without a GPU",
        (seconds / 60.0).ceil()
    )
    .ok();
    text.push_str(&stopping(loaded));
    let bytes = experiment.models.values().map(|model| size(backends, model)).fold(0.0, f64::max);
    if bytes > 0.0 {
        writeln!(
            text,
            "memory: about {:.1} GiB (the largest model, twice while it loads)",
            2.0 * bytes / 1.074e9
        )
        .ok();
    }
    text.push_str("\nThe smallest difference each comparison can find (power 80 %):\n");
    for set in &loaded.sets {
        writeln!(text, "- {}: {}", set.spec.name, smallest(loaded, set)).ok();
    }
    text
}

/// What choosing settings on dev may take within the experiment's budget, and the seconds of it.
fn tuning(loaded: &Loaded, backends: &Real) -> Option<(String, f64)> {
    let effort = loaded.experiment.tune.as_ref()?;
    let tuned: Vec<&ArmPlan> = loaded.plans.iter().filter(|plan| plan.tuned() > 0).collect();
    // A trained token is three passes, and generated ones are the few.
    let seconds = tuned.iter().map(|plan| {
        let scale = scale(backends, &loaded.experiment.models[&plan.model]);
        scale * plan.sets.len() as f64 * effort.budget as f64 / RATES.prompt
    });
    let names: Vec<&str> = tuned.iter().map(|plan| plan.name.as_str()).collect();
    let line = format!(
        "choosing settings on dev: at most {} token passes per set for each of {}",
        effort.budget,
        names.join(", ")
    );
    Some((line, seconds.sum()))
}

struct Row {
    trials: usize,
    prompt: f64,
    answer: f64,
    train: f64,
}

fn estimate(loaded: &Loaded, set: &LoadedSet, plan: &ArmPlan) -> Row {
    let experiment = &loaded.experiment;
    let seeds = plan.finetune.as_ref().map_or(1, |finetune| finetune.seeds.len());
    let trials = set.samples.len() * experiment.run.epochs.get() as usize * seeds;
    let question =
        mean(set.samples.iter().map(|sample| sample.input.len()).sum(), set.samples.len());
    let row = row_tokens(set);
    let passage = |rag: &Rag| passage_tokens(set, rag);
    let shown = |rag: &Rag| f64::from(rag.top_k) * passage(rag);
    let passages = plan.rag.as_ref().map_or(0.0, shown);
    let sorted = |rag: &Rag| shown_to_sort(rag) * passage(rag);
    let sorting = plan.rag.as_ref().map_or(0.0, sorted);
    let prompt = 40.0 + question + passages + f64::from(plan.prompt.num_fewshot) * (row + 20.0);
    let max_tokens = set.spec.max_tokens.unwrap_or(experiment.generate.max_tokens);
    if plan.features.is_some() {
        return Row { trials, prompt: 0.0, answer: 0.0, train: 0.0 };
    }
    let asked = f64::from(plan.prompt.draws().0);
    let trains = plan.finetune.as_ref().filter(|_| set.spec.adapters_of.is_none());
    let train = trains.map_or(0.0, |finetune| {
        let rows = set.train.as_ref().map_or(0, Vec::len);
        let n = finetune.limit.map_or(rows, |limit| rows.min(limit as usize));
        n as f64 * (row + 30.0) * f64::from(finetune.num_epochs) * seeds as f64
    });
    Row {
        trials,
        prompt: (asked * prompt + sorting) * trials as f64,
        answer: asked * f64::from(max_tokens) * trials as f64,
        train,
    }
}

/// Mean tokens of texts with so many characters in all.
fn mean(characters: usize, n: usize) -> f64 {
    characters as f64 / n.max(1) as f64 / CHARACTERS_PER_TOKEN
}

/// Tokens of a training row.
fn row_tokens(set: &LoadedSet) -> f64 {
    let rows = set.train.as_deref().unwrap_or_default();
    let length = |row: &TrainRow| match row {
        TrainRow::Completion { input, reference } => input.len() + reference.len(),
        TrainRow::Preference { input, chosen, .. } => input.len() + chosen.len(),
        TrainRow::Labelled { input, completion, .. } => input.len() + completion.len(),
        TrainRow::Text(text) => text.len(),
    };
    mean(rows.iter().map(length).sum(), rows.len())
}

/// Tokens of one passage.
fn passage_tokens(set: &LoadedSet, rag: &Rag) -> f64 {
    let documents = set.corpus.as_deref().unwrap_or_default();
    if documents.is_empty() {
        return row_tokens(set);
    }
    let whole = mean(documents.iter().map(|document| document.text.len()).sum(), documents.len());
    match rag.chunking() {
        Chunking { by: ChunkBy::Document, .. } => whole,
        Chunking { size, .. } => whole.min(f64::from(size)),
    }
}

/// Passages that a chat model reads to sort the candidates of one question, window by window.
fn shown_to_sort(rag: &Rag) -> f64 {
    let Some(rerank) = rag.rerank.as_ref().filter(|rerank| rerank.chat_model().is_some()) else {
        return 0.0;
    };
    let (window, stride) = rerank.window_and_stride();
    let moves = rerank.candidates.saturating_sub(window).div_ceil(stride.max(1));
    f64::from((1 + moves) * window.min(rerank.candidates))
}

/// What judging takes, in a table of its own.
#[derive(Default)]
struct Judging {
    text: String,
    seconds: f64,
}

/// Tokens of a judge's prompt beside rubric, question and answers: instructions and marks.
const JUDGE_FRAME: f64 = 220.0;

/// The judges' table, and how often they are asked in all. Equal answers are judged once, so these
/// are the most.
fn judging(loaded: &Loaded, backends: &Real) -> (Judging, usize) {
    let experiment = &loaded.experiment;
    let Some(judge) = &experiment.judge else { return (Judging::default(), 0) };
    let mut found = Judging {
        text: "\n| set | judge | judgements, at most | prompt tokens | answer tokens, at most |\n\
               |---|---|---:|---:|---:|\n"
            .into(),
        seconds: 0.0,
    };
    let mut total = 0;
    for set in &loaded.sets {
        let max_tokens = set.spec.max_tokens.unwrap_or(experiment.generate.max_tokens);
        let answers = if judge.mode == JudgeMode::Pairwise { 2.0 } else { 1.0 };
        let n = set.samples.len().max(1) as f64;
        let text =
            |sample: &bench_core::dataset::Sample| sample.input.len() + sample.reference.len();
        let sample = set.samples.iter().map(text).sum::<usize>() as f64 / n;
        let own = loaded.rubric.as_ref().map_or(0, String::len);
        let criteria = judge.criteria.iter().map(|(name, criterion)| {
            (judge.by(criterion), loaded.criteria.get(name).map_or(0, String::len))
        });
        let (mut asked, mut prompt) = (0, 0.0);
        for (judge, rubric) in std::iter::once((judge.clone(), own)).chain(criteria) {
            let (n, passages) = judgements(loaded, set, &judge);
            let each = JUDGE_FRAME
                + (rubric as f64 + sample) / CHARACTERS_PER_TOKEN
                + answers * 0.5 * f64::from(max_tokens);
            asked += n;
            prompt += each * n as f64 + passages;
        }
        if asked == 0 {
            continue;
        }
        let reply = f64::from(RubricJudge::REPLY_TOKENS) * asked as f64;
        for name in judge.names() {
            found.seconds += scale(backends, &experiment.models[name])
                * (prompt / RATES.prompt + 0.5 * reply / RATES.answer);
            total += asked;
            writeln!(
                found.text,
                "| {} | {name} | {asked} | {prompt:.0} | {reply:.0} |",
                set.spec.name
            )
            .ok();
        }
    }
    (found, total)
}

/// How often one judge is asked on a set by one rubric (a pair of answers counts twice, once in each
/// order), and the tokens of the passages that it is shown.
fn judgements(loaded: &Loaded, set: &LoadedSet, judge: &Judge) -> (usize, f64) {
    if judge.on.as_ref().is_some_and(|on| !on.contains(&set.spec.name)) {
        return (0, 0.0);
    }
    let n = judge.sample.map_or(usize::MAX, |n| n as usize).min(set.samples.len());
    // Points of learning curves are judged only where the judge decides, and never in pairs.
    let points = judge.mode == JudgeMode::Rubric
        && matches!(set.spec.scorers.first(), Some(Scorer::Judge {}));
    // Without passages there is nothing to ask a judge of passages.
    let shown = |plan: &ArmPlan| {
        let rag = plan.rag.as_ref().filter(|rag| rag.passages != PassageSource::ClosedBook);
        rag.map(|rag| f64::from(rag.top_k) * passage_tokens(set, rag))
    };
    let is_judged = |plan: &&ArmPlan| {
        plan.sets.contains(&set.spec.name)
            && (points || plan.curve.is_none())
            && (!judge.needs_passages() || shown(plan).is_some())
    };
    let plans = loaded.plans.iter().filter(is_judged);
    match judge.mode {
        JudgeMode::Rubric => {
            let times =
                n * loaded.experiment.run.epochs.get() as usize * judge.repeats.get() as usize;
            let (mut asked, mut passages) = (0, 0.0);
            for plan in plans {
                let answers = times * plan.finetune.as_ref().map_or(1, |f| f.seeds.len());
                asked += answers;
                if judge.needs_passages() {
                    passages += answers as f64 * shown(plan).unwrap_or(0.0);
                }
            }
            (asked, passages)
        }
        JudgeMode::Pairwise => {
            let arms = plans.count();
            let pairs = arms * arms.saturating_sub(1) / 2;
            (2 * n * judge.pairs_per_sample.map_or(pairs, |some| pairs.min(some as usize)), 0.0)
        }
    }
}

/// When a run that may stop early looks, where it may.
fn stopping(loaded: &Loaded) -> String {
    let Some(stop) = &loaded.experiment.run.stop else { return String::new() };
    let half = stop.half_width.map(|half| format!("every arm's mean is known to within {half}"));
    let decided = stop.decided.then(|| "the comparison is decided".to_owned());
    let when: Vec<String> = half.into_iter().chain(decided).collect();
    let mut text = format!(
        "These are the most: a set is asked in rounds and no further once {}.\n",
        when.join(" or ")
    );
    for set in &loaded.sets {
        let rounds = plan::rounds(stop.first as usize, set.samples.len());
        let looks: Vec<String> = rounds.iter().map(usize::to_string).collect();
        writeln!(text, "- {}: looks after {} samples", set.spec.name, looks.join(", ")).ok();
    }
    text
}

/// Bytes of a model's weights, as far as can be known without loading it.
fn size(backends: &Real, model: &ModelSource) -> f64 {
    let folder = match model {
        ModelSource::Catalog(name) => match catalog::find(name) {
            // An import is in f32: about seven times the file of four-bit blocks.
            Some(entry) if !backends.cache.has(entry) => return 5.5 * entry.files[0].bytes as f64,
            Some(entry) => backends.cache.path(entry),
            None => return 0.0,
        },
        ModelSource::Path(path) => path.into(),
        ModelSource::Hub(_) | ModelSource::Endpoint(_) | ModelSource::Scripted(_) => return 0.0,
    };
    crate::models::size_of(&folder) as f64
}

fn scale(backends: &Real, model: &ModelSource) -> f64 {
    match model {
        ModelSource::Scripted(_) | ModelSource::Endpoint(_) => 0.0,
        ModelSource::Catalog(_) | ModelSource::Path(_) | ModelSource::Hub(_) => {
            let bytes = size(backends, model);
            if bytes > 0.0 { bytes / RATED_BYTES } else { 1.0 }
        }
    }
}

fn smallest(loaded: &Loaded, set: &LoadedSet) -> String {
    let options = Options { alpha: loaded.experiment.compare.alpha, ..Options::default() };
    let binary = !matches!(
        set.spec.scorers[0],
        Scorer::TokenF1 {}
            | Scorer::RougeL {}
            | Scorer::Chrf {}
            | Scorer::Bleu {}
            | Scorer::JsonSchema { .. }
            | Scorer::Functional {}
            | Scorer::Citation { .. }
            | Scorer::EmbeddingSimilarity {}
            | Scorer::Judge {}
    );
    let spread = if binary {
        Spread::Discordance(GUESSED_DISCORDANCE)
    } else {
        Spread::StandardDeviation(GUESSED_DISCORDANCE)
    };
    let n = set.samples.len();
    // Points of learning curves are compared with nobody.
    let compared = |plan: &&ArmPlan| plan.curve.is_none() && plan.sets.contains(&set.spec.name);
    let arms = loaded.plans.iter().filter(compared).count();
    let found = |comparisons: usize| {
        let found = minimum_detectable_difference(n, spread, comparisons, &options);
        found.map(|difference| format!("{:.0} points", 100.0 * difference))
    };
    let (others, pairs) = (arms.saturating_sub(1), arms * arms.saturating_sub(1) / 2);
    if pairs == 0 {
        return "one arm, nothing to compare".into();
    }
    let Some(to_baseline) = found(others) else {
        return format!("none: {n} samples are too few");
    };
    let between = found(pairs).unwrap_or_else(|| "none".into());
    let baseline = &loaded.experiment.compare.baseline;
    format!(
        "{to_baseline} of {} to {baseline} ({others} comparisons), {between} between any two arms \
         ({pairs}, which the decision needs), with {n} samples if arms differ on {:.0} % of them",
        set.spec.scorers[0].name(),
        100.0 * GUESSED_DISCORDANCE
    )
}
