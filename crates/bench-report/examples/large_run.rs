//! Writes a report folder with as many trials as wanted, so that `bench report` can be measured on
//! it: `cargo run --release --example large_run -- FOLDER TRIALS`. The records follow from a seed and
//! stand for nothing.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use bench_core::chat::Message;
use bench_core::manifest::Manifest;
use bench_core::record::{Answer, Outcome, Record, Retrieved, TrialId, Verdict};
use serde_json::json;

/// Arms, and how often each is right.
const ARMS: [(&str, f64); 10] = [
    ("zero_shot", 0.30),
    ("few_shot", 0.36),
    ("few_shot_nearest", 0.41),
    ("chain_of_thought", 0.38),
    ("rag_dense", 0.62),
    ("rag_bm25", 0.60),
    ("rag_hybrid", 0.66),
    ("rag_oracle", 0.80),
    ("lora", 0.52),
    ("lora_rag", 0.70),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (folder, trials) = (arguments.next(), arguments.next());
    let folder = folder.ok_or("give a folder and a number of trials")?;
    let trials: usize = trials.ok_or("give a number of trials")?.parse()?;
    let mut noise = Noise(5);
    let mut records = Vec::with_capacity(trials);
    for sample in 0..trials / ARMS.len() {
        for (arm, right) in ARMS {
            records.push(record(arm, right, sample, &mut noise));
        }
    }
    std::fs::create_dir_all(Path::new(&folder).join("tables"))?;
    std::fs::write(
        Path::new(&folder).join("tables/trials.parquet"),
        bench_report::trials_parquet(&records)?,
    )?;
    let text = serde_json::to_string_pretty(&manifest()?)?;
    Ok(std::fs::write(Path::new(&folder).join("manifest.json"), text)?)
}

fn record(arm: &str, right: f64, sample: usize, noise: &mut Noise) -> Record {
    // Samples differ in difficulty, so that arms agree more often than chance.
    let difficulty = (sample % 97) as f64 / 97.0 - 0.5;
    let is_right = noise.next() < (right - 0.4 * difficulty).clamp(0.02, 0.98);
    let retrieves = arm.contains("rag");
    let question = format!("Which of the {} keepers lit lamp number {sample}?", sample % 13 + 2);
    let passages = "In the year of the long frost the keeper of the lamp wrote it down. ";
    let prompt = if retrieves { passages.repeat(8) } else { String::new() };
    let f1 = if is_right { 1.0 } else { (noise.next() * 6.0).floor() / 10.0 };
    Record {
        trial: TrialId {
            set: "facts".into(),
            arm: arm.into(),
            sample: format!("facts-{sample:06}"),
            repeat: 0,
            train_seed: 0,
        },
        key: format!(
            "{:016x}{:016x}{:016x}{:016x}",
            noise.bits(),
            noise.bits(),
            sample,
            right.to_bits()
        ),
        input: question.clone(),
        references: vec![format!("keeper {sample}")],
        cluster: None,
        slices: BTreeMap::from([("kind".into(), format!("kind {}", sample % 5))]),
        prompt: vec![
            Message::system("Answer in as few words as you can."),
            Message::user(format!("{prompt}{question}")),
        ],
        retrieved: (0..if retrieves { 3 } else { 0 })
            .map(|rank| {
                let is_gold = rank == sample % 4;
                let document = if is_gold { sample } else { sample + 7 * (rank + 1) };
                Retrieved {
                    id: format!("doc-{document}#0"),
                    document: format!("doc-{document}"),
                    score: 1.0 / (rank + 1) as f64,
                    in_prompt: true,
                    number: Some(rank as u32 + 1),
                }
            })
            .collect(),
        gold: vec![format!("doc-{sample}")],
        qrels: BTreeMap::new(),
        outcome: Outcome::Answered(Answer {
            text: if is_right {
                format!("It was keeper {sample}.")
            } else {
                format!("It was keeper {}, as far as I can tell.", noise.bits() % 1000)
            },
            tokens_in: if retrieves { 180 } else { 40 } + (noise.bits() % 9) as u32,
            tokens_out: 5 + (noise.bits() % 12) as u32,
            first_token_ms: Some(20.0 + noise.next()),
            latency_ms: 90.0 + if retrieves { 60.0 } else { 0.0 } + 80.0 * noise.next(),
            retrieval_ms: if retrieves { 4.0 + noise.next() } else { 0.0 },
            finish: "stop".into(),
            cost_usd: Some(1e-5 * (1.0 + noise.next())),
            ..Answer::default()
        }),
        verdicts: BTreeMap::from([
            ("contains".into(), Verdict::scored(f64::from(u8::from(is_right)))),
            ("token_f1".into(), Verdict::scored(f1)),
        ]),
        calls: Vec::new(),
        budget: None,
        unanswerable: false,
        preferences: Vec::new(),
    }
}

fn manifest() -> Result<Manifest, serde_json::Error> {
    let arms: Vec<_> = ARMS
        .iter()
        .map(|(name, _)| {
            let strategy =
                if name.contains("rag") { json!({"rag": {}}) } else { json!({"prompt": {}}) };
            json!({ "name": name, "model": "small", "strategy": strategy })
        })
        .collect();
    serde_json::from_value(json!({
        "format": 1,
        "program": "large_run",
        "experiment": {
            "version": 1,
            "name": "large",
            "models": {"small": {"catalog": "smollm2-135m-instruct"}},
            "eval_sets": [{
                "name": "facts",
                "path": "facts.jsonl",
                "corpus": "corpus.jsonl",
                "scorers": [{"contains": {}}, {"token_f1": {}}],
                "slices": ["kind"],
            }],
            "arms": arms,
            "compare": {"baseline": "zero_shot"},
        },
        "plan_digest": "00".repeat(32),
        "files": {},
        "models": {},
        "training": [],
        "indexes": [],
        "parity": [],
        "machine": {"platform": "", "processor": "", "cores": 0, "memory_bytes": 0, "accelerator": ""},
        "seconds": {},
        "peak_memory_bytes": 0,
        "warnings": ["these trials were made up to measure the report"],
    }))
}

/// A linear congruential generator (Knuth's MMIX constants).
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 11
    }

    fn next(&mut self) -> f64 {
        self.bits() as f64 / (1_u64 << 53) as f64
    }
}
