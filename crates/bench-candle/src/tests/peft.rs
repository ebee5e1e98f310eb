//! Files of ours that PEFT has read: `tests/golden/ours.py` hands those in `tests/golden/llama/ours` to
//! PEFT and keeps what it predicts with them.

use std::path::{Path, PathBuf};

use bench_core::spec::{Finetune, Method, Objective};
use fs_err as fs;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::fixture::settings;
use super::golden::{folder, golden};
use crate::adapter::{CONFIG, Layout};
use crate::data::{Batch, Row};
use crate::model::Model;
use crate::step::{Adapter, Engine};

/// What each folder holds, and its settings.
fn kinds() -> Vec<(&'static str, Finetune)> {
    let low_rank = settings();
    vec![
        ("lora", low_rank.clone()),
        ("rslora", Finetune { use_rslora: true, ..low_rank.clone() }),
        ("dora", Finetune { use_dora: true, ..low_rank.clone() }),
        (
            "some_modules",
            Finetune {
                target_modules: vec!["q_proj".into(), "down_proj".into()],
                ..low_rank.clone()
            },
        ),
        ("reward", Finetune { objective: Objective::Reward, ..low_rank.clone() }),
        ("soft_prompt", Finetune { method: Method::SoftPrompt, num_virtual_tokens: 5, ..low_rank }),
    ]
}

/// What a job that starts from drawn numbers would write after steps of drawn size.
fn write(model: &Model, settings: &Finetune, into: &Path) {
    let layout = Layout::of_settings(model, settings).unwrap();
    let mut parameters = layout.initial(model, settings.init_lora_weights, 3);
    let mut random = ChaCha8Rng::seed_from_u64(4);
    for value in &mut parameters {
        *value += random.random_range(-0.125..0.125);
    }
    fs::create_dir_all(into).unwrap();
    layout.write(&model.config, &parameters, "llama", settings.lora_dropout, into).unwrap();
}

fn ours(kind: &str) -> PathBuf {
    folder("llama").join("ours").join(kind)
}

#[derive(Deserialize)]
struct Read {
    /// Of each token of the golden row, or of each of the rows.
    #[serde(default)]
    losses: Vec<f64>,
    #[serde(default)]
    rewards: Vec<f64>,
    #[serde(default)]
    rows: Vec<Vec<u32>>,
}

#[test]
fn peft_predicts_with_our_files_what_we_do() {
    let (_, batch) = golden("llama");
    let model = Model::open(&folder("llama")).unwrap();
    let text = fs::read(folder("llama").join("ours/peft.json")).unwrap();
    let mut golden: std::collections::BTreeMap<String, Read> =
        serde_json::from_slice(&text).unwrap();
    let base = Engine::new(&model, 96).predict(&batch, None);
    for (kind, _) in kinds() {
        let (layout, parameters) = Layout::read(&model.config, &ours(kind)).unwrap();
        let adapter = Adapter { layout: &layout, parameters: &parameters, dropout: None };
        let mut engine = Engine::new(&model, 96);
        let expected = golden.remove(kind).unwrap();
        let (found, expected) = if kind == "reward" {
            let rows = expected.rows.into_iter().map(|tokens| Row { tokens, prompt: 10 });
            let rows: Vec<Row> = rows.collect();
            let batch = Batch::new(rows.iter().zip(0..)).ends();
            (engine.rewards(&batch, adapter), expected.rewards)
        } else {
            let found = engine.predict(&batch, Some(adapter));
            let moved = found.iter().zip(&base).any(|(a, b)| (a.loss - b.loss).abs() > 0.1);
            assert!(moved, "{kind}: the adapter does something");
            (found.iter().map(|found| found.loss).collect(), expected.losses)
        };
        assert!(found.len() == expected.len() && !found.is_empty(), "{kind}");
        for (found, expected) in found.iter().zip(&expected) {
            let difference = (f64::from(*found) - expected).abs();
            assert!(difference < 3e-5 * expected.abs().max(1.0), "{kind}: {found}, {expected}");
        }
    }
    assert!(golden.is_empty(), "{:?}", golden.keys());
}

/// So PEFT reads what is written today.
#[test]
fn the_files_that_peft_has_read_are_those_that_are_written() {
    let model = Model::open(&folder("llama")).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    for (kind, settings) in kinds() {
        let written = scratch.path().join(kind);
        write(&model, &settings, &written);
        let again = "run `ours.py` again, see there";
        let text = |folder: &Path| fs::read_to_string(folder.join(CONFIG)).unwrap();
        assert_eq!(text(&written), text(&ours(kind)), "{kind}: {again}");
        // The system's logarithm may differ in its last bit.
        let numbers = |folder: &Path| Layout::read(&model.config, folder).unwrap().1;
        let (found, kept) = (numbers(&written), numbers(&ours(kind)));
        let same = found.iter().zip(&kept).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(found.len() == kept.len() && same, "{kind}: {again}");
    }
}

#[test]
#[ignore = "writes what `tests/golden/ours.py` hands to PEFT"]
fn write_the_files_for_peft() {
    let model = Model::open(&folder("llama")).unwrap();
    for (kind, settings) in kinds() {
        write(&model, &settings, &ours(kind));
    }
}
