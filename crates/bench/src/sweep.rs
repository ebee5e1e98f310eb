//! `bench retrieve sweep`: tries settings of retrieval on the `dev` samples, chooses the best
//! there, and compares it once, on the eval samples, with a baseline. Nothing is generated.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bench_core::backend::{BackendError, Embedder, Progress, Purpose, Retriever, Stage};
use bench_core::dataset::{Document, Sample};
use bench_core::metrics::{self, Grades};
use bench_core::spec::{ArmPlan, ChunkBy, Rag, Retrieval, Sweep};
use bench_run::load::draw;
use bench_run::{Backends, Loaded, LoadedSet, search};
use bench_stats::{Clusters, Comparison, Estimate, Options, compare, estimate};

/// Passages taken per question: enough for ten different documents where chunks are small.
const DEPTH: usize = 50;

/// The measures that tables show, by name and depth.
const SHOWN: [(&str, usize); 5] =
    [("hit", 1), ("hit", 5), ("recall", 10), ("mrr", 10), ("ndcg", 10)];

/// A loss of recall below this is worth fewer passages in the prompt.
const RECALL_MARGIN: f64 = 0.01;

/// What a sweep found on one eval set.
pub(crate) struct SetSweep {
    set: String,
    /// The model of the set's first arm that retrieves: the one that the chosen arm is written for.
    model: String,
    metric: String,
    n_dev: usize,
    n_test: usize,
    /// Every setting with its figures on dev, best first.
    tried: Vec<Tried>,
    /// The best setting, with the `top_k` that was chosen for it.
    best: Rag,
    /// The best setting against the baseline on the eval samples, by measure.
    compared: Vec<(String, Comparison)>,
}

struct Tried {
    settings: Rag,
    chunks: u64,
    chosen_by: Estimate,
    shown: Vec<Estimate>,
    /// Per `top_k`: recall and precision of the passages that a prompt would hold.
    by_top_k: Vec<(u32, Estimate, Estimate)>,
}

/// A question with the ids of its gold documents.
struct Asked<'a> {
    text: &'a str,
    gold: Grades<'a>,
}

/// For each question the documents of the passages found, best first, repeats included.
type Rankings = Vec<Vec<String>>;

/// What trying one setting gives: with the rankings, the number of chunks.
type Found = Result<(Rankings, u64), BackendError>;

/// Sweeps every eval set that has a corpus, `dev` samples with gold documents, and a wanted name.
///
/// # Errors
/// A backend's own; no set that can be swept.
pub(crate) fn sweep(
    loaded: &Loaded,
    only: &[String],
    backends: &dyn Backends,
    progress: &dyn Progress,
) -> Result<Vec<SetSweep>, BackendError> {
    let settings = loaded.experiment.sweep.clone().unwrap_or_default();
    let mut swept = Vec::new();
    for set in &loaded.sets {
        let wanted = only.is_empty() || only.contains(&set.spec.name);
        let gold = |samples: &[Sample]| samples.iter().any(|sample| !sample.context_ids.is_empty());
        if wanted && set.corpus.is_some() && set.dev.as_deref().is_some_and(gold) {
            swept.push(sweep_set(loaded, set, &settings, backends, progress)?);
        }
    }
    if swept.is_empty() {
        let message = "no eval set can be swept: it needs a `corpus`, and `dev` samples with \
                       `context_ids`";
        return Err(BackendError::fatal("sweep", message));
    }
    Ok(swept)
}

fn sweep_set(
    loaded: &Loaded,
    set: &LoadedSet,
    sweep: &Sweep,
    backends: &dyn Backends,
    progress: &dyn Progress,
) -> Result<SetSweep, BackendError> {
    let seed = loaded.experiment.run.seed;
    let with_gold = |samples: &'_ [Sample]| -> Vec<Sample> {
        samples.iter().filter(|sample| !sample.context_ids.is_empty()).cloned().collect()
    };
    let dev = with_gold(set.dev.as_deref().unwrap_or_default());
    let limit = sweep.limit.map_or(usize::MAX, |limit| limit as usize);
    let dev: Vec<&Sample> = draw(&dev, limit, seed, |_, sample| sample.id.clone());
    let test = with_gold(&set.samples);
    let test: Vec<&Sample> = test.iter().collect();
    let combinations = combinations(sweep);
    let baseline = sweep.baseline();
    let dense = combinations.iter().chain([&baseline]).any(|rag| rag.retriever.is_dense());
    let embedder =
        if dense { Some(backends.embedder(&loaded.experiment.embedder, progress)?) } else { None };
    if let Some(embedder) = &embedder {
        // All at once, in large batches; afterwards they are remembered.
        let texts: Vec<String> =
            dev.iter().chain(&test).map(|sample| sample.input.clone()).collect();
        let task = progress.begin(
            Stage::Index,
            &format!("{}: questions", set.spec.name),
            texts.len() as u64,
        );
        for (n, batch) in texts.chunks(64).enumerate() {
            embedder.embed(Purpose::Query, batch)?;
            task.advance((n * 64 + batch.len()) as u64, "");
        }
    }
    let bench = Bench {
        set: &set.spec.name,
        documents: search::documents(set),
        embedder,
        folder: search::folder(loaded),
        backends,
        progress,
    };
    // Building embeds and uses all cores, so indexes are built one after the other.
    for rag in combinations.iter().chain([&baseline]) {
        bench.open(rag)?;
    }
    let asked: Vec<Asked<'_>> = dev.iter().map(|sample| question(sample)).collect();
    let found = bench.rank_all(&combinations, &asked)?;
    let options = Options::default();
    let clusters = clusters(&dev);
    let (name, depth) = sweep.metric().unwrap_or(("ndcg", 10));
    let mean = |rankings: &Rankings, name: &str, depth: usize| {
        let values = values(rankings, &asked, name, depth);
        estimate(&values, &clusters, &options)
            .ok_or_else(|| BackendError::fatal("sweep", "there is no dev sample to measure on"))
    };
    let mut top_ks = sweep.top_k.clone();
    top_ks.sort_unstable();
    let mut tried = Vec::new();
    for (settings, (rankings, chunks)) in combinations.iter().zip(&found) {
        let shown = SHOWN.iter().map(|(name, depth)| mean(rankings, name, *depth));
        let by_top_k = top_ks.iter().map(|&k| {
            // Of the passages that a prompt would hold, not of documents.
            let first = |found: &Vec<String>| found.iter().take(k as usize).cloned().collect();
            let cut: Rankings = rankings.iter().map(first).collect();
            Ok((k, mean(&cut, "recall", k as usize)?, mean(&cut, "precision", k as usize)?))
        });
        tried.push(Tried {
            settings: settings.clone(),
            chunks: *chunks,
            chosen_by: mean(rankings, name, depth)?,
            shown: shown.collect::<Result<_, _>>()?,
            by_top_k: by_top_k.collect::<Result<_, BackendError>>()?,
        });
    }
    // Stable: among equals the setting that stands first in the file.
    tried.sort_by(|a, b| b.chosen_by.mean.total_cmp(&a.chosen_by.mean));
    let Tried { settings: best, by_top_k, .. } = &tried[0];
    let most = by_top_k.last().map_or(0.0, |(_, recall, _)| recall.mean);
    let enough = by_top_k.iter().find(|(_, recall, _)| recall.mean >= most - RECALL_MARGIN);
    let top_k = enough.map_or(best.top_k, |(k, ..)| *k);
    let best = Rag { top_k, ..best.clone() };

    let asked: Vec<Asked<'_>> = test.iter().map(|sample| question(sample)).collect();
    let pair = bench.rank_all(&[best.clone(), baseline], &asked)?;
    let clusters = self::clusters(&test);
    let compared = SHOWN.iter().filter_map(|(name, depth)| {
        let [a, b] = [0, 1].map(|side| values(&pair[side].0, &asked, name, *depth));
        Some((format!("{name}@{depth}"), compare(&a, &b, &clusters, &options)?))
    });
    let compared = compared.collect();
    let plans = || {
        let here = |plan: &&ArmPlan| plan.sets.contains(&set.spec.name) && plan.features.is_none();
        loaded.plans.iter().filter(here)
    };
    let retrieves = plans().find(|plan| plan.rag.is_some()).or_else(|| plans().next());
    Ok(SetSweep {
        set: set.spec.name.clone(),
        model: retrieves.map(|plan| plan.model.clone()).unwrap_or_default(),
        metric: format!("{name}@{depth}"),
        n_dev: dev.len(),
        n_test: test.len(),
        tried,
        best,
        compared,
    })
}

/// Every combination of the lists, in the order of the file.
fn combinations(sweep: &Sweep) -> Vec<Rag> {
    let mut all = Vec::new();
    let reranks = || std::iter::once(None).chain(sweep.rerank.iter().cloned().map(Some));
    for retriever in &sweep.retriever {
        for &chunk in &sweep.chunk {
            for (n, &terms) in sweep.terms.iter().enumerate() {
                // Dense retrieval reads no terms.
                if n > 0 && matches!(retriever, Retrieval::Dense {}) {
                    continue;
                }
                for rerank in reranks() {
                    let (retriever, chunk) = (retriever.clone(), Some(chunk));
                    all.push(Rag { retriever, chunk, terms, rerank, ..Rag::default() });
                }
            }
        }
    }
    all
}

fn question(sample: &Sample) -> Asked<'_> {
    let gold = if sample.qrels.is_empty() {
        metrics::binary(sample.context_ids.iter().map(String::as_str))
    } else {
        sample.qrels.iter().map(|(document, grade)| (document.as_str(), *grade)).collect()
    };
    Asked { text: &sample.input, gold }
}

fn clusters(samples: &[&Sample]) -> Clusters {
    let label = |sample: &&Sample| {
        // A sample without a cluster is one of its own.
        sample.cluster().map_or_else(|| format!("id/{}", sample.id), |c| format!("cluster/{c}"))
    };
    Clusters::from_labels(samples.iter().map(label))
}

/// A measure of each question.
fn values(rankings: &Rankings, asked: &[Asked<'_>], name: &str, depth: usize) -> Vec<f64> {
    let measure = match name {
        "hit" => metrics::hit,
        "recall" => metrics::recall,
        "precision" => metrics::precision,
        "mrr" => metrics::reciprocal_rank,
        "map" => metrics::average_precision,
        _ => metrics::ndcg,
    };
    let value = |(ranking, asked): (&Vec<String>, &Asked<'_>)| {
        let documents = metrics::documents(ranking.iter().map(String::as_str));
        // Questions without gold documents were left out.
        measure(&documents, &asked.gold, depth).unwrap_or(0.0)
    };
    rankings.iter().zip(asked).map(value).collect()
}

/// A corpus to search in many ways.
struct Bench<'a> {
    set: &'a str,
    documents: Arc<Vec<Document>>,
    embedder: Option<Arc<dyn Embedder>>,
    folder: PathBuf,
    backends: &'a dyn Backends,
    progress: &'a dyn Progress,
}

impl Bench<'_> {
    fn open(&self, settings: &Rag) -> Result<Arc<dyn Retriever>, BackendError> {
        let Self { set, documents, embedder, folder, backends, progress } = self;
        let (embedder, backends, progress) = (embedder.clone(), *backends, *progress);
        search::search(set, documents, settings, embedder, folder, backends, progress)?
            .open(backends, &Silent(progress))
    }

    /// All settings on all questions, several settings at once; with each its number of chunks.
    fn rank_all(
        &self,
        settings: &[Rag],
        asked: &[Asked<'_>],
    ) -> Result<Vec<(Rankings, u64)>, BackendError> {
        let what = format!("{}: {} settings", self.set, settings.len());
        let task = self.progress.begin(Stage::Check, &what, settings.len() as u64);
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let results: Vec<Mutex<Option<Found>>> =
            settings.iter().map(|_| Mutex::new(None)).collect();
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(rag) = settings.get(at) else { break };
                let found = self.rank(rag, asked);
                *results[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                task.advance(done.fetch_add(1, Ordering::Relaxed) as u64 + 1, "");
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        std::thread::scope(|scope| {
            for _ in 0..cores.min(settings.len()) {
                scope.spawn(work);
            }
        });
        let lost = || -> Found { Err(BackendError::fatal("sweep", "a setting was not tried")) };
        let result = |slot: Mutex<Option<Found>>| {
            slot.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(lost)
        };
        results.into_iter().map(result).collect()
    }

    fn rank(&self, rag: &Rag, asked: &[Asked<'_>]) -> Found {
        let retriever = self.open(rag)?;
        let documents = |asked: &Asked<'_>| {
            let found = retriever.retrieve(asked.text, DEPTH)?;
            Ok(found.into_iter().map(|passage| passage.document).collect())
        };
        let rankings: Result<Rankings, BackendError> = asked.iter().map(documents).collect();
        Ok((rankings?, retriever.info().chunks))
    }
}

/// Shows bars but says nothing twice: many settings share an index and its warnings.
struct Silent<'a>(&'a dyn Progress);

impl Progress for Silent<'_> {
    fn begin(&self, stage: Stage, what: &str, total: u64) -> Box<dyn bench_core::backend::Task> {
        self.0.begin(stage, what, total)
    }

    fn say(&self, _: &str) {}
}

/// Writes `sweep.md`, `sweep.csv`, `comparison.csv` and `best.yaml` into a folder.
///
/// # Errors
/// The disk's own.
pub(crate) fn write(folder: &Path, swept: &[SetSweep]) -> std::io::Result<()> {
    fs_err::create_dir_all(folder)?;
    for (name, text) in [
        ("sweep.md", page(swept)),
        ("sweep.csv", sweep_csv(swept)),
        ("comparison.csv", comparison_csv(swept)),
        ("best.yaml", best_yaml(swept)),
    ] {
        bench_run::store::write_atomically(&folder.join(name), text.as_bytes())?;
    }
    Ok(())
}

fn chunk(rag: &Rag) -> String {
    let chunking = rag.chunking();
    let by = match chunking.by {
        ChunkBy::Tokens => "tokens",
        ChunkBy::Sentence => "sentence",
        ChunkBy::Markdown => "markdown",
        ChunkBy::Document => return "document".into(),
    };
    match chunking.overlap {
        0 => format!("{by} {}", chunking.size),
        overlap => format!("{by} {} overlap {overlap}", chunking.size),
    }
}

fn retriever(rag: &Rag) -> String {
    let name = match &rag.retriever {
        Retrieval::Dense {} => return "dense".into(),
        Retrieval::Bm25 { k1, b } => format!("bm25 k1 {k1} b {b}"),
        Retrieval::Hybrid { dense_weight } => format!("hybrid {dense_weight}"),
        Retrieval::Rrf { k } => format!("rrf {k}"),
    };
    match (rag.terms.stem, rag.terms.stop_words) {
        (true, true) => name,
        (false, true) => format!("{name}, no stems"),
        (true, false) => format!("{name}, stop words kept"),
        (false, false) => format!("{name}, no stems, stop words kept"),
    }
}

fn reranker(rag: &Rag) -> String {
    rag.rerank.as_ref().map_or("none".into(), |rerank| {
        let model = match &rerank.model {
            bench_core::spec::RerankerSource::Overlap => "overlap",
            bench_core::spec::RerankerSource::Path(name)
            | bench_core::spec::RerankerSource::Llm(name) => name,
        };
        format!("{model} of {}", rerank.candidates)
    })
}

fn interval(estimate: &Estimate) -> String {
    format!("{:.3} ({:.3} to {:.3})", estimate.mean, estimate.low, estimate.high)
}

/// The page: per set the outcome on the eval samples first, then what was tried.
pub(crate) fn page(swept: &[SetSweep]) -> String {
    let mut page = String::from("# Retrieval\n");
    for sweep in swept {
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "\n## {}\n\nChosen on {} dev questions by {}: **{}**, chunks by {}, reranker {}, top {}.\n",
            sweep.set,
            sweep.n_dev,
            sweep.metric,
            retriever(&sweep.best),
            chunk(&sweep.best),
            reranker(&sweep.best),
            sweep.best.top_k
        );
        let _ = writeln!(
            page,
            "Against the baseline on {} eval questions, asked once (95 % intervals of the paired \
             difference; exact McNemar or paired permutation test, Holm's correction is not \
             applied):\n\n| measure | chosen | baseline | difference | p | outcome |\n|---|---|---|---|---|---|",
            sweep.n_test
        );
        for (measure, found) in &sweep.compared {
            let _ = writeln!(
                page,
                "| {measure} | {:.3} | {:.3} | {:+.3} ({:+.3} to {:+.3}) | {} | {} |",
                found.mean_a,
                found.mean_b,
                found.difference,
                found.low,
                found.high,
                p_value(found.p_value),
                found.verdict.word()
            );
        }
        page.push_str(
            "\nPassages of the chosen setting on dev:\n\n| top_k | recall | precision |\n|---|---|---|\n",
        );
        // The best stands first.
        for (k, recall, precision) in sweep.tried.iter().take(1).flat_map(|best| &best.by_top_k) {
            let _ = writeln!(page, "| {k} | {} | {} |", interval(recall), interval(precision));
        }
        page.push_str(
            "\nTried on dev, best first:\n\n| retriever | chunks by | number | reranker |",
        );
        for (name, depth) in SHOWN {
            let _ = write!(page, " {name}@{depth} |");
        }
        page.push_str("\n|---|---|---|---|---|---|---|---|---|\n");
        for tried in &sweep.tried {
            let settings = &tried.settings;
            let _ = write!(
                page,
                "| {} | {} | {} | {} |",
                retriever(settings),
                chunk(settings),
                tried.chunks,
                reranker(settings)
            );
            for shown in &tried.shown {
                let _ = write!(page, " {} |", interval(shown));
            }
            page.push('\n');
        }
    }
    page
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") }
}

fn sweep_csv(swept: &[SetSweep]) -> String {
    let mut csv = String::from("set,retriever,chunk,n_chunks,reranker,measure,mean,low,high,n\n");
    for sweep in swept {
        for tried in &sweep.tried {
            let settings = &tried.settings;
            let documents = SHOWN.iter().zip(&tried.shown);
            let documents = documents.map(|((name, k), found)| (*name, *k as u32, found));
            let passages = tried.by_top_k.iter().flat_map(|(k, recall, precision)| {
                [("passage_recall", *k, recall), ("passage_precision", *k, precision)]
            });
            for (name, depth, found) in documents.chain(passages) {
                let _ = writeln!(
                    csv,
                    "{},\"{}\",{},{},{},{name}@{depth},{:.6},{:.6},{:.6},{}",
                    sweep.set,
                    retriever(settings),
                    chunk(settings),
                    tried.chunks,
                    reranker(settings),
                    found.mean,
                    found.low,
                    found.high,
                    found.n
                );
            }
        }
    }
    csv
}

fn comparison_csv(swept: &[SetSweep]) -> String {
    let mut csv =
        String::from("set,measure,n,chosen,baseline,difference,low,high,p_value,outcome\n");
    for sweep in swept {
        for (measure, found) in &sweep.compared {
            let _ = writeln!(
                csv,
                "{},{measure},{},{:.6},{:.6},{:.6},{:.6},{:.6},{:.6},{}",
                sweep.set,
                found.n,
                found.mean_a,
                found.mean_b,
                found.difference,
                found.low,
                found.high,
                found.p_value,
                found.verdict.word()
            );
        }
    }
    csv
}

/// The chosen settings as arms of an experiment file.
pub(crate) fn best_yaml(swept: &[SetSweep]) -> String {
    let mut yaml = String::new();
    for sweep in swept {
        let best = &sweep.best;
        let _ = writeln!(
            yaml,
            "# Chosen on {} dev questions of `{}` by {}.\n- name: rag_{}\n  model: {}\n  strategy:\n    rag:",
            sweep.n_dev, sweep.set, sweep.metric, sweep.set, sweep.model
        );
        let _ = writeln!(yaml, "      top_k: {}", best.top_k);
        let _ = writeln!(yaml, "      retriever: {}", json(&best.retriever));
        let _ = writeln!(yaml, "      chunk: {}", json(&best.chunking()));
        if best.retriever != (Retrieval::Dense {}) {
            let _ = writeln!(yaml, "      terms: {}", json(&best.terms));
        }
        if let Some(rerank) = &best.rerank {
            let _ = writeln!(yaml, "      rerank: {}", json(rerank));
        }
    }
    yaml
}

/// A value as JSON, which is YAML too.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_tried_and_dense_reads_no_terms() {
        let sweep = Sweep {
            terms: vec![bench_core::spec::Terms::default(); 2],
            chunk: vec![bench_core::spec::Chunking::default(); 3],
            ..Sweep::default()
        };
        // dense 3, and three others 3 x 2
        assert_eq!(combinations(&sweep).len(), 3 + 3 * 3 * 2);
    }

    #[test]
    fn graded_documents_count_by_their_grade() {
        let sample = Sample {
            qrels: [("a".to_owned(), 1), ("b".to_owned(), 3)].into(),
            ..Sample::default()
        };
        let asked = [question(&sample)];
        let better = values(&vec![vec!["b".into(), "a".into()]], &asked, "ndcg", 2);
        let worse = values(&vec![vec!["a".into(), "b".into()]], &asked, "ndcg", 2);
        assert!((better[0] - 1.0).abs() < 1e-12 && worse[0] < 0.9, "{better:?} {worse:?}");
        assert_eq!(values(&vec![vec!["c".into(), "a".into()]], &asked, "map", 10), [0.25]);
    }

    #[test]
    fn measures_are_of_documents_however_many_chunks_they_have() {
        let gold = metrics::binary(["b"]);
        let asked = [Asked { text: "q", gold }];
        let rankings = vec![["a", "a", "a", "b"].map(String::from).to_vec()];
        assert_eq!(values(&rankings, &asked, "hit", 2), [1.0]);
        assert_eq!(values(&rankings, &asked, "mrr", 10), [0.5]);
        assert_eq!(values(&rankings, &asked, "hit", 1), [0.0]);
    }
}
