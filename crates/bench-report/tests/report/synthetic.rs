//! Runs made up here: their records follow from a seed and stand for nothing.

use std::collections::BTreeMap;

use bench_core::backend::{IndexInfo, Served, TrainOutcome, TrainStep};
use bench_core::chat::Message;
use bench_core::manifest::{
    Agreement, IndexEntry, Machine, Manifest, ModelEntry, Origin, ParityEntry, PromptCandidate,
    RungScore, TrainingEntry, TuningEntry, TuningKind,
};
use bench_core::record::{Answer, Outcome, Record, Retrieved, TokenBudget, TrialId, Verdict};
use bench_core::spec::{Experiment, resolve};
use serde_json::{Value, json};

/// An arm and how often it is right.
pub(crate) struct Arm {
    pub(crate) name: &'static str,
    pub(crate) strategy: Value,
    pub(crate) right: f64,
}

pub(crate) fn arm(name: &'static str, strategy: Value, right: f64) -> Arm {
    Arm { name, strategy, right }
}

pub(crate) fn two_arms() -> Vec<Arm> {
    vec![
        arm("zero_shot", json!({"prompt": {}}), 0.2),
        arm("rag", json!({"rag": {"top_k": 3}}), 0.8),
    ]
}

/// The four arms whose effects can be taken apart.
pub(crate) fn four_arms() -> Vec<Arm> {
    let mut arms = two_arms();
    arms.push(arm("lora", json!({"finetune": {"seeds": [0, 1]}}), 0.45));
    arms.push(arm("lora_rag", json!({"compose": ["lora", "rag"]}), 0.85));
    arms
}

pub(crate) fn twelve_arms() -> Vec<Arm> {
    let mut arms = vec![
        arm("zero_shot", json!({"prompt": {}}), 0.2),
        arm("few_shot_with_five_examples_at_random", json!({"prompt": {"num_fewshot": 5}}), 0.3),
        arm("few_shot_with_nine_nearest_examples", json!({"prompt": {"num_fewshot": 9}}), 0.38),
        arm("chain_of_thought_before_the_answer", json!({"prompt": {}}), 0.31),
        arm("rag_dense_top_3", json!({"rag": {"retriever": {"dense": {}}}}), 0.66),
        arm(
            "rag_bm25_top_3_whole_documents",
            json!({"rag": {"retriever": {"bm25": {}}, "chunk_size": 0}}),
            0.7,
        ),
        arm("rag_hybrid_top_5_chunks_of_200_tokens", json!({"rag": {"top_k": 5}}), 0.8),
        arm("rag_oracle_passages_as_a_control", json!({"rag": {"passages": "oracle"}}), 0.92),
        arm("lora_rank_16_three_epochs", json!({"finetune": {}}), 0.45),
        arm(
            "lora_rank_64_three_epochs_all_linear_layers",
            json!({"finetune": {"lora_r": 64}}),
            0.47,
        ),
        arm(
            "lora_rank_16_with_rag_hybrid",
            json!({"compose": ["lora_rank_16_three_epochs", "rag_hybrid_top_5_chunks_of_200_tokens"]}),
            0.82,
        ),
    ];
    arms.push(arm("prompt_in_another_language", json!({"prompt": {}}), 0.22));
    arms
}

/// Recipes that were trained on several numbers of rows.
pub(crate) fn curve_arms(recipes: &[&'static str], sizes: &[u32]) -> Vec<Arm> {
    let mut arms = vec![arm("zero_shot", json!({"prompt": {}}), 0.2)];
    for (at, recipe) in recipes.iter().enumerate() {
        for &size in sizes {
            let name: &'static str = format!("{recipe}_{size}_rows").leak();
            let settings = json!({"finetune": {"limit": size, "lora_r": 8 << at}});
            let right = 0.75 - 0.05 * at as f64 - 2.4 / f64::from(size).sqrt();
            arms.push(arm(name, settings, right.max(0.0)));
        }
    }
    arms
}

/// As [`run`], with a judge on `facts`, a set `skills` of general questions, and prices under which
/// training may or may not pay for itself.
pub(crate) fn rich(arms: &[Arm], n: usize) -> (Manifest, Vec<Record>) {
    let (mut manifest, mut records) = run(arms, n);
    let mut noise = Noise(11);
    let tuned: Vec<bool> =
        resolve(&manifest.experiment).iter().map(|plan| plan.finetune.is_some()).collect();
    let experiment = &mut manifest.experiment;
    experiment.eval_sets.push(
        serde_json::from_value(json!(
            {"name": "skills", "path": "skills.jsonl", "scorers": [{"contains": {}}], "retention": true}
        ))
        .unwrap(),
    );
    experiment.judge =
        serde_json::from_value(json!({"model": "grader", "rubric": "right or wrong"})).unwrap();
    experiment.prices = serde_json::from_value(json!({
        "date": "2026-11-21",
        "storage_gb_month": 0.02,
        "models": {"small": {
            "input": 1.0, "cached_input": 0.1, "output": 2.0, "gpu_hour": 4.0,
            "tuned": {"hosting_hour": 0.002},
        }},
    }))
    .unwrap();
    experiment.break_even = serde_json::from_value(json!(
        {"retrain_weeks": 4, "price_fall_percent": 30, "cache_min_tokens": 20}
    ))
    .unwrap();
    let mut skills = Vec::new();
    for record in &mut records {
        if record.trial.set == "facts" {
            let right = record.verdicts["contains"].value() == Some(1.0);
            let judged = if noise.next() < 0.8 { right } else { !right };
            record.verdicts.insert("judge".into(), Verdict::scored(f64::from(u8::from(judged))));
        } else {
            let arm = arms.iter().position(|arm| arm.name == record.trial.arm).unwrap();
            let right = noise.next() < if tuned[arm] { 0.6 } else { 0.8 };
            let mut asked = record.clone();
            asked.trial.set = "skills".into();
            asked.verdicts =
                BTreeMap::from([("contains".into(), Verdict::scored(f64::from(u8::from(right))))]);
            skills.push(asked);
        }
    }
    records.extend(skills);
    for record in &mut records {
        record.budget = Some(TokenBudget {
            instructions: 12,
            examples: 0,
            context: 30 * record.retrieved.len() as u32,
            question: 9,
            answer: 16,
        });
    }
    manifest.tuning = vec![tuning(&records[0].trial)];
    (manifest, records)
}

/// Two prompts for an arm, of which the second was chosen.
fn tuning(trial: &TrialId) -> TuningEntry {
    let candidate = |origin, user: &str, values: &[f64]| PromptCandidate {
        origin,
        system: None,
        user: user.into(),
        rungs: values
            .iter()
            .enumerate()
            .map(|(rung, value)| RungScore { samples: 10 << rung, value: Some(*value), rows: None })
            .collect(),
        settings: String::new(),
    };
    TuningEntry {
        arm: trial.arm.clone(),
        set: trial.set.clone(),
        metric: "contains".into(),
        dev_samples: 40,
        candidates: vec![
            candidate(Origin::Given, "Say it.\n{{ input }}", &[0.25]),
            candidate(Origin::Induction, "Name the keeper.\n{{ input }}", &[0.5, 0.625]),
        ],
        chosen: 1,
        unusable: 1,
        calls: 32,
        tokens_in: 900,
        tokens_out: 120,
        kind: TuningKind::Prompt,
        tokens_trained: 0,
        budget: None,
    }
}

/// A run of `n` samples on two sets: `facts` with a corpus and `form` without.
pub(crate) fn run(arms: &[Arm], n: usize) -> (Manifest, Vec<Record>) {
    let experiment = experiment(arms);
    let mut noise = Noise(7);
    let mut records = Vec::new();
    let plans = resolve(&experiment);
    for set in &experiment.eval_sets {
        for (arm, plan) in arms.iter().zip(&plans) {
            for seed in plan.finetune.as_ref().map_or(vec![0], |f| f.seeds.clone()) {
                for sample in 0..n {
                    let has_corpus = set.name == "facts";
                    let rag = plan.rag.as_ref().filter(|_| has_corpus);
                    let depth = rag.map_or(0, |rag| rag.top_k as usize);
                    let right = noise.next() < arm.right + if has_corpus { 0.0 } else { 0.1 };
                    let rank = (noise.next() * 6.0) as usize;
                    records.push(Record {
                        trial: TrialId {
                            set: set.name.clone(),
                            arm: arm.name.into(),
                            sample: format!("{}-{sample:03}", set.name),
                            repeat: 0,
                            train_seed: seed,
                        },
                        key: format!("{}-{sample}", arm.name),
                        input: format!("Who keeps the lamp of house {sample}?"),
                        references: vec![
                            format!("keeper {sample}"),
                            format!("the keeper {sample}"),
                        ],
                        cluster: None,
                        slices: BTreeMap::from([(
                            "kind".into(),
                            ["one", "two"][sample % 2].into(),
                        )]),
                        prompt: vec![
                            Message::system("Answer in one or two words."),
                            Message::user(format!(
                                "{} Who keeps the lamp of house {sample}?",
                                "passage ".repeat(depth * 20)
                            )),
                        ],
                        retrieved: (0..depth)
                            .map(|at| Retrieved {
                                id: format!("doc-{}#0", if at == rank { sample } else { 900 + at }),
                                document: format!(
                                    "doc-{}",
                                    if at == rank { sample } else { 900 + at }
                                ),
                                score: 1.0 / (at + 1) as f64,
                                in_prompt: at < 2,
                                number: (at < 2).then_some(at as u32 + 1),
                            })
                            .collect(),
                        gold: if has_corpus { vec![format!("doc-{sample}")] } else { vec![] },
                        qrels: BTreeMap::new(),
                        outcome: Outcome::Answered(Answer {
                            text: if right {
                                format!("keeper {sample}")
                            } else {
                                "nobody knows".into()
                            },
                            tokens_in: 40 + 90 * depth as u32 + 60 * plan.prompt.num_fewshot,
                            tokens_out: 4 + (noise.next() * 8.0) as u32,
                            first_token_ms: Some(20.0 + 10.0 * depth as f64),
                            latency_ms: 80.0
                                + 60.0 * depth as f64
                                + 40.0 * f64::from(plan.prompt.num_fewshot)
                                + noise.next() * 90.0,
                            retrieval_ms: if depth > 0 { 6.0 } else { 0.0 },
                            finish: "stop".into(),
                            cost_usd: Some(
                                1e-6 * f64::from(
                                    40 + 90 * depth as u32 + 60 * plan.prompt.num_fewshot,
                                ) + 1e-6 * noise.next(),
                            ),
                            full_text: None,
                        }),
                        verdicts: BTreeMap::from([
                            ("contains".into(), Verdict::scored(f64::from(u8::from(right)))),
                            (
                                "token_f1".into(),
                                Verdict::scored(if right {
                                    1.0
                                } else {
                                    (noise.next() * 4.0).floor() / 10.0
                                }),
                            ),
                        ]),
                        calls: Vec::new(),
                        budget: None,
                        unanswerable: false,
                        preferences: Vec::new(),
                    });
                }
            }
        }
    }
    (manifest(experiment, arms), records)
}

fn experiment(arms: &[Arm]) -> Experiment {
    let arms: Vec<Value> = arms
        .iter()
        .map(|a| json!({"name": a.name, "model": "small", "strategy": a.strategy}))
        .collect();
    serde_json::from_value(json!({
        "version": 1,
        "name": "lamps",
        "description": "Which technique teaches a small model who keeps which lamp?",
        "models": {"small": {"catalog": "smollm2-135m-instruct"}},
        "eval_sets": [
            {"name": "facts", "path": "facts.jsonl", "corpus": "corpus.jsonl", "scorers": [{"contains": {}}, {"token_f1": {}}], "slices": ["kind"]},
            {"name": "form", "path": "form.jsonl", "scorers": [{"token_f1": {}}]},
        ],
        "arms": arms,
        "compare": {"baseline": "zero_shot"},
        "prices": {"date": "2026-11-21", "models": {"small": {"input": 1.0, "output": 2.0, "machine_hour": 0.5}}},
        "gates": [
            {"metric": "contains", "arm": "rag", "vs": "zero_shot", "ci_lower": ">= 0"},
            {"metric": "contains", "arm": "zero_shot", "ci_lower": "> 0.9"},
        ],
    }))
    .unwrap()
}

fn manifest(experiment: Experiment, arms: &[Arm]) -> Manifest {
    let plans = resolve(&experiment);
    let mut training = Vec::new();
    for set in ["facts", "form"] {
        for (plan, arm) in plans.iter().zip(arms) {
            let Some(settings) = plan.finetune.as_ref().filter(|_| plan.rag.is_none()) else {
                continue;
            };
            for &seed in &settings.seeds {
                let step = |step: u64| TrainStep {
                    step,
                    total_steps: 120,
                    loss: 0.4
                        + 3.0 / (step as f64 + arm.name.len() as f64).sqrt()
                        + seed as f64 * 0.1,
                    dev_loss: step.is_multiple_of(40).then(|| 0.6 + 3.0 / (step as f64).sqrt()),
                    learning_rate: 2e-4,
                    tokens: step * 400,
                    tokens_per_second: 410.0,
                };
                training.push(TrainingEntry {
                    arms: plans
                        .iter()
                        .filter(|p| p.finetune == plan.finetune)
                        .map(|p| p.name.clone())
                        .collect(),
                    set: set.into(),
                    seed,
                    rows: settings.limit.map_or(480, u64::from),
                    outcome: TrainOutcome {
                        adapter: "adapters/a".into(),
                        digest: "ad".repeat(32),
                        served: Served::Adapter,
                        trainable_parameters: 4_884_480,
                        total_parameters: 139_400_000,
                        seconds: 117.5,
                        peak_memory_bytes: 2_400_000_000,
                        rows_too_long: 0,
                        rows_cut: 0,
                        dev_rows_too_long: 0,
                        best_step: None,
                        halved: 0,
                        steps: (1..=120).map(step).collect(),
                    },
                    classifier: None,
                    adapter_bytes: 0,
                    energy_joules: None,
                });
            }
        }
    }
    let tuned =
        training.first().map(|entry: &TrainingEntry| entry.arms.clone()).unwrap_or_default();
    Manifest {
        format: 1,
        program: "0.1.0".into(),
        experiment,
        plan_digest: "0123456789abcdef".repeat(4),
        files: BTreeMap::from([("facts.jsonl".into(), "fa".repeat(32))]),
        models: BTreeMap::from([(
            "small".into(),
            ModelEntry {
                id: "smollm2-135m-instruct".into(),
                digest: "5d".repeat(32),
                backend: "mistralrs".into(),
                dtype: "f32".into(),
            },
        )]),
        scorers: BTreeMap::new(),
        training,
        indexes: vec![IndexEntry {
            arms: vec!["rag".into()],
            set: "facts".into(),
            embedder: "minilm".into(),
            info: IndexInfo {
                digest: "1d".repeat(32),
                documents: 80,
                chunks: 96,
                dimension: 384,
                seconds: 2.5,
                documents_new: 80,
                cut_to_window: 0,
            },
        }],
        parity: if tuned.is_empty() {
            vec![]
        } else {
            vec![ParityEntry {
                base_tokens: None,
                set: "facts".into(),
                seed: 0,
                agreement: Agreement {
                    rows: 16,
                    tokens: 210,
                    top1_agree: 210,
                    max_nll_difference: 0.0004,
                },
            }]
        },
        proofs: vec![],
        judging: vec![],
        stopped: vec![],
        machine: Machine {
            platform: "linux x86_64".into(),
            processor: "a processor".into(),
            cores: 2,
            memory_bytes: 8 << 30,
            accelerator: "none".into(),
        },
        seconds: BTreeMap::from([("generate".into(), 61.0), ("train".into(), 130.0)]),
        peak_memory_bytes: 3 << 30,
        warnings: vec![],
        tuning: vec![],
    }
}

/// A linear congruential generator (Knuth's MMIX constants): the same numbers everywhere.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}
