//! Golden values of Hugging Face transformers and PEFT; `tests/golden/make.py` makes them.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;

use crate::adapter::Layout;
use crate::data::{Batch, Row};
use crate::device;
use crate::model::Model;
use bench_core::spec::Optimizer;

use crate::optimizer::{AdamW, Rates, clip, norm};
use crate::step::{Adapter, Engine, Keep, Weigh};

const FAMILIES: [&str; 6] = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma3"];

#[derive(Deserialize)]
pub(crate) struct Golden {
    ids: Vec<u32>,
    base: Vec<f64>,
    adapted: Vec<f64>,
    course: Vec<f64>,
    norm: f64,
}

pub(crate) fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family)
}

pub(crate) fn golden(family: &str) -> (Golden, Batch) {
    let text = fs::read(folder(family).join("golden.json")).unwrap();
    let golden: Golden = serde_json::from_slice(&text).unwrap();
    let row = Row { tokens: golden.ids.clone(), prompt: 0 };
    let batch = Batch::new([(&row, 0)]);
    (golden, batch)
}

#[test]
fn every_token_is_as_likely_as_in_transformers_and_in_peft() {
    for family in FAMILIES {
        let (golden, batch) = golden(family);
        let model = Model::open(&folder(family)).unwrap();
        let (layout, parameters) =
            Layout::read(&model.config, &folder(family).join("adapter")).unwrap();
        let adapter = Adapter { layout: &layout, parameters: &parameters, dropout: None };
        let mut engine = Engine::new(&model, batch.tokens.len());
        for (adapter, expected) in [(None, &golden.base), (Some(adapter), &golden.adapted)] {
            let found = engine.predict(&batch, adapter);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                let difference = (f64::from(found.loss) - expected).abs();
                assert!(difference < 2e-5 * expected.max(1.0), "{family}: {found:?}, {expected}");
            }
        }
        let sum = |losses: &[f64]| losses.iter().sum::<f64>();
        assert!(
            (sum(&golden.base) - sum(&golden.adapted)).abs() > 0.5,
            "the adapter does something"
        );
    }
}

#[test]
fn steps_lead_where_those_of_peft_and_torch_lead() {
    for family in FAMILIES {
        let (golden, batch) = golden(family);
        let model = Model::open(&folder(family)).unwrap();
        let (layout, mut parameters) =
            Layout::read(&model.config, &folder(family).join("adapter")).unwrap();
        let mut engine = Engine::new(&model, batch.tokens.len());
        let mut optimizer = AdamW::new(Optimizer::Adamw, layout.len);
        for expected in &golden.course {
            let mut gradient = vec![0.0; layout.len];
            let adapter = Adapter { layout: &layout, parameters: &parameters, dropout: None };
            let n = batch.targets.len();
            let loss = engine.learn(&batch, adapter, 1.0 / n as f32, Keep::Inputs, &mut gradient);
            let loss = loss / n as f64;
            assert!((loss - expected).abs() < 5e-4 * expected, "{family}: {loss}, {expected}");
            let share = clip(norm(&gradient), 1.0);
            optimizer.step(&mut parameters, &gradient, share, Rates::plain(1e-2, 0.1));
        }
        let found = norm(&parameters);
        assert!(
            (found - golden.norm).abs() < 1e-4 * golden.norm,
            "{family}: {found}, {}",
            golden.norm
        );
    }
}

#[test]
fn steps_over_tensors_lead_there_too() {
    for (family, (place, tolerance)) in FAMILIES
        .iter()
        .flat_map(|family| super::device::places().into_iter().map(move |p| (family, p)))
    {
        let (golden, batch) = golden(family);
        let model = Model::open(&folder(family)).unwrap();
        let (layout, mut parameters) =
            Layout::read(&model.config, &folder(family).join("adapter")).unwrap();
        let on = format!("{family} on {place:?}");
        let engine = device::Engine::new(&model, Some(&layout), place).unwrap();
        let adapter = Adapter { layout: &layout, parameters: &parameters, dropout: None };
        for (adapter, expected) in [(None, &golden.base), (Some(adapter), &golden.adapted)] {
            let found = engine.predict(&batch, adapter).unwrap();
            let mean = |losses: &mut dyn Iterator<Item = f64>| losses.sum::<f64>();
            let found = mean(&mut found.iter().map(|p| f64::from(p.loss)));
            let expected = mean(&mut expected.iter().copied());
            let apart = (found - expected).abs() / expected;
            assert!(apart < f64::from(tolerance), "{on}: {found}, {expected}");
        }
        let mut optimizer = AdamW::new(Optimizer::Adamw, layout.len);
        for expected in &golden.course {
            let mut gradient = vec![0.0; layout.len];
            let adapter = Adapter { layout: &layout, parameters: &parameters, dropout: None };
            let n = batch.targets.len();
            let weigh = Weigh::Same(1.0 / n as f32);
            let learnt =
                engine.learn_weighted(&batch, adapter, weigh, Keep::Inputs, None, &mut gradient);
            let loss = learnt.unwrap().iter().map(|p| f64::from(p.loss)).sum::<f64>() / n as f64;
            let apart = (loss - expected).abs() / expected;
            assert!(apart < 5.0 * f64::from(tolerance), "{on}: {loss}, {expected}");
            let share = clip(norm(&gradient), 1.0);
            optimizer.step(&mut parameters, &gradient, share, Rates::plain(1e-2, 0.1));
        }
        let found = norm(&parameters);
        let apart = (found - golden.norm).abs() / golden.norm;
        assert!(apart < f64::from(tolerance), "{on}: {found}, {}", golden.norm);
    }
}
