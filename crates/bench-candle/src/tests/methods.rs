//! Every way to train: against PEFT and torch (`tests/golden/variants.py` makes the values), against
//! finite differences, and against itself with activations kept, rows packed or weights merged.

use std::collections::BTreeMap;

use bench_core::spec::{Finetune, InitLoraWeights, Method, Objective, Optimizer};
use fs_err as fs;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::fixture::{Fixture, VOCABULARY, settings};
use super::golden::{folder, golden};
use crate::adapter::Layout;
use crate::blocks::Kind;
use crate::data::{Batch, Row};
use crate::merge::fold_in;
use crate::model::{Model, Slot};
use crate::optimizer::{AdamW, Rates, clip, norm};
use crate::step::{Adapter, Dropout, Engine, Keep, Noise, Weigh};
use crate::{pissa, preference};

#[derive(Deserialize)]
pub(super) struct Variant {
    course: Vec<f64>,
    norm: f64,
    #[serde(default)]
    pub(super) adapted: Vec<f64>,
    #[serde(default)]
    principal: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Pair {
    rows: Vec<Vec<u32>>,
    prompt: usize,
}

pub(super) fn variants() -> serde_json::Map<String, serde_json::Value> {
    let read = |name| -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_slice(&fs::read(folder(name)).unwrap()).unwrap()
    };
    let (mut variants, mut soft) = (read("variants.json"), read("soft_prompt.json"));
    variants.insert("kto".into(), soft.remove("kto").unwrap());
    variants.insert("reward".into(), soft.remove("reward").unwrap());
    variants.insert("soft_prompt".into(), soft.into());
    variants
}

pub(super) fn variant(name: &str) -> Variant {
    serde_json::from_value(variants()[name].clone()).unwrap()
}

/// Steps from `parameters`, as torch takes them.
#[track_caller]
pub(super) fn check_course(
    name: &str,
    model: &Model,
    layout: &Layout,
    mut parameters: Vec<f32>,
    rates: Rates<'_>,
    step: &mut dyn FnMut(&mut Engine<'_>, Adapter<'_>, &mut [f32]) -> f64,
) {
    let golden = variant(name);
    let mut engine = Engine::new(model, 64 + layout.virtual_tokens);
    let mut optimizer = AdamW::new(Optimizer::Adamw, layout.len);
    for expected in &golden.course {
        let mut gradient = vec![0.0; layout.len];
        let adapter = Adapter { layout, parameters: &parameters, dropout: None };
        let loss = step(&mut engine, adapter, &mut gradient);
        let tolerance = 1e-3 * expected.abs().max(0.1);
        assert!((loss - expected).abs() < tolerance, "{name}: {loss}, {expected}");
        let share = clip(norm(&gradient), 1.0);
        optimizer.step(&mut parameters, &gradient, share, rates);
    }
    let found = norm(&parameters);
    assert!((found - golden.norm).abs() < 2e-4 * golden.norm, "{name}: {found}, {}", golden.norm);
}

/// The mean loss over a row and its derivative.
pub(super) fn mean_loss(
    batch: &Batch,
) -> impl FnMut(&mut Engine<'_>, Adapter<'_>, &mut [f32]) -> f64 {
    move |engine, adapter, gradient| {
        let n = batch.targets.len();
        engine.learn(batch, adapter, 1.0 / n as f32, Keep::Inputs, gradient) / n as f64
    }
}

#[test]
fn dora_and_rank_stabilised_adapters_predict_and_learn_as_in_peft() {
    for name in ["dora", "rslora"] {
        let (_, batch) = golden("llama");
        let model = Model::open(&folder("llama")).unwrap();
        let (layout, parameters) =
            Layout::read(&model.config, &folder("llama").join(name)).unwrap();
        assert_eq!(layout.dora, name == "dora");
        let adapter = Adapter { layout: &layout, parameters: &parameters, dropout: None };
        let found = Engine::new(&model, 64).predict(&batch, Some(adapter));
        let golden = variant(name);
        assert_eq!(found.len(), golden.adapted.len());
        for (found, expected) in found.iter().zip(&golden.adapted) {
            let difference = (f64::from(found.loss) - expected).abs();
            assert!(difference < 3e-5 * expected.max(1.0), "{name}: {found:?}, {expected}");
        }
        let rates = Rates::plain(1e-2, 0.1);
        check_course(name, &model, &layout, parameters, rates, &mut mean_loss(&batch));
    }
}

#[test]
fn b_learns_at_its_own_rate_as_in_peft() {
    let (_, batch) = golden("llama");
    let model = Model::open(&folder("llama")).unwrap();
    let (layout, parameters) =
        Layout::read(&model.config, &folder("llama").join("adapter")).unwrap();
    let others = layout.b_places();
    let rates = Rates { learning_rate: 2e-3, weight_decay: 0.1, others: &others, multiple: 8.0 };
    check_course("loraplus", &model, &layout, parameters, rates, &mut mean_loss(&batch));
}

#[test]
fn pissa_takes_out_what_peft_takes_out_and_is_served_as_a_plain_adapter() {
    let (_, batch) = golden("llama");
    let mut model = Model::open(&folder("llama")).unwrap();
    let settings = Finetune {
        lora_r: 4,
        lora_alpha: 8.0,
        init_lora_weights: InitLoraWeights::Pissa,
        ..Finetune::default()
    };
    let layout = Layout::of_settings(&model, &settings).unwrap();
    let before: BTreeMap<Slot, Vec<f32>> = model
        .slots()
        .unwrap()
        .into_keys()
        .map(|slot| (slot, model.tensor(slot).to_vec()))
        .collect();
    let mut initial = layout.initial(&model, InitLoraWeights::Pissa, 3);
    pissa::take_out(&mut model, &layout, &mut initial, 3);
    let golden = variant("pissa");
    let mut compared = 0;
    for (slot, before) in &before {
        let Some(expected) = golden.principal.get(slot.name(false).trim_end_matches(".weight"))
        else {
            continue;
        };
        let part: Vec<f32> =
            before.iter().zip(model.tensor(*slot)).map(|(before, rest)| before - rest).collect();
        assert!((norm(&part) - expected).abs() < 1e-3 * expected, "{slot:?}");
        compared += 1;
    }
    assert_eq!(compared, 14);
    let rates = Rates::plain(1e-2, 0.1);
    let course = &mut mean_loss(&batch);
    check_course("pissa", &model, &layout, initial.clone(), rates, course);

    // At the start the change of the base is none; after steps it is what was learnt.
    let mut learnt = initial.clone();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for value in &mut learnt {
        *value += random.random_range(-0.1..0.1);
    }
    let untouched = Model::open(&folder("llama")).unwrap();
    for (parameters, changed) in [(&initial, false), (&learnt, true)] {
        let adapter = Adapter { layout: &layout, parameters, dropout: None };
        let expected = Engine::new(&model, 64).predict(&batch, Some(adapter));
        let (wide, numbers) = layout.less(&model.config, parameters, &initial);
        assert_eq!(wide.rank, 8);
        let adapter = Adapter { layout: &wide, parameters: &numbers, dropout: None };
        let found = Engine::new(&untouched, 64).predict(&batch, Some(adapter));
        let base = Engine::new(&untouched, 64).predict(&batch, None);
        for ((found, expected), base) in found.iter().zip(&expected).zip(&base) {
            assert!((found.loss - expected.loss).abs() < 1e-4);
            assert!(changed || (found.loss - base.loss).abs() < 1e-4);
        }
        let moved =
            found.iter().zip(&base).any(|(found, base)| (found.loss - base.loss).abs() > 0.1);
        assert_eq!(moved, changed);
    }
}

#[derive(Deserialize)]
struct Judged {
    rows: Vec<Vec<u32>>,
    prompt: usize,
    labels: Vec<bool>,
}

#[test]
fn completions_that_were_found_good_or_bad_are_learnt_as_in_their_paper() {
    let model = Model::open(&folder("llama")).unwrap();
    let (layout, mut parameters) =
        Layout::read(&model.config, &folder("llama").join("adapter")).unwrap();
    for place in layout.b_places() {
        parameters[place].fill(0.0);
    }
    let judged: Judged = serde_json::from_value(variants()["kto"].clone()).unwrap();
    let prompt = judged.prompt;
    let rows: Vec<Row> = judged.rows.into_iter().map(|tokens| Row { tokens, prompt }).collect();
    let batch = Batch::new(rows.iter().zip(0..));
    let targets: Vec<usize> = rows.iter().map(Row::targets).collect();
    let sums = |engine: &mut Engine<'_>, adapter| -> Vec<f64> {
        let found = engine.predict(&batch, Some(adapter));
        let mut rest = found.iter();
        targets
            .iter()
            .map(|n| rest.by_ref().take(*n).map(|found| f64::from(found.loss)).sum())
            .collect()
    };
    let initial = parameters.clone();
    let start = Adapter { layout: &layout, parameters: &initial, dropout: None };
    let reference = sums(&mut Engine::new(&model, 64), start);
    let rates = Rates::plain(1e-2, 0.1);
    let share = 1.0 / judged.labels.len() as f64;
    let mut step = |engine: &mut Engine<'_>, adapter: Adapter<'_>, gradient: &mut [f32]| {
        let mut loss = 0.0;
        let mut weigh = |predictions: &[crate::ops::loss::Prediction]| {
            let weighed = preference::weigh_labelled(
                0.3,
                [1.0, 1.3],
                predictions,
                &targets,
                &reference,
                &judged.labels,
                share,
            );
            loss = weighed.loss * share;
            weighed.weights
        };
        let weigh = Weigh::Each(&mut weigh);
        engine.learn_weighted(&batch, adapter, weigh, Keep::Inputs, None, gradient);
        loss
    };
    check_course("kto", &model, &layout, parameters, rates, &mut step);
}

#[test]
fn a_models_own_weights_learn_as_in_torch() {
    for (method, family, rate) in [
        (Method::Full, "llama", 1e-3),
        (Method::Full, "llama3", 1e-3),
        (Method::Full, "qwen2", 1e-3),
        (Method::Full, "qwen3", 1e-3),
        (Method::Full, "gemma3", 1e-3),
        (Method::LastLayers, "qwen3", 1e-2),
        (Method::LastLayers, "gemma3", 1e-2),
        (Method::Head, "llama3", 1e-2),
        (Method::Head, "gemma3", 1e-2),
        (Method::Bitfit, "qwen2", 1e-2),
    ] {
        let (_, batch) = golden(family);
        let model = Model::open(&folder(family)).unwrap();
        let settings = Finetune { method, last_layers: 1, ..Finetune::default() };
        let layout = Layout::of_settings(&model, &settings).unwrap();
        let parameters = layout.initial(&model, InitLoraWeights::Default, 0);
        let name = format!("{} {family}", method.name());
        let rates = Rates::plain(rate, 0.1);
        check_course(&name, &model, &layout, parameters, rates, &mut mean_loss(&batch));
    }
}

#[test]
fn preferences_are_learnt_as_their_papers_say() {
    let pair: Pair = serde_json::from_value(variants()["pair"].clone()).unwrap();
    let rows: Vec<Row> =
        pair.rows.into_iter().map(|tokens| Row { tokens, prompt: pair.prompt }).collect();
    let batch = Batch::new(rows.iter().zip(0..));
    let targets: Vec<usize> = rows.iter().map(Row::targets).collect();
    for objective in [Objective::Dpo, Objective::Orpo] {
        let model = Model::open(&folder("llama")).unwrap();
        let (layout, mut parameters) =
            Layout::read(&model.config, &folder("llama").join("adapter")).unwrap();
        for place in layout.b_places() {
            parameters[place].fill(0.0);
        }
        let base = Engine::new(&model, 64).predict(&batch, None);
        let sum = |part: &[crate::ops::loss::Prediction]| {
            part.iter().map(|prediction| f64::from(prediction.loss)).sum::<f64>()
        };
        let reference = [sum(&base[..targets[0]]), sum(&base[targets[0]..])];
        let rates = Rates::plain(1e-2, 0.1);
        check_course(
            objective.name(),
            &model,
            &layout,
            parameters,
            rates,
            &mut |engine, adapter, gradient| {
                let mut loss = 0.0;
                let mut weigh = |predictions: &[crate::ops::loss::Prediction]| {
                    let weighed =
                        preference::weigh(objective, 0.3, predictions, &targets, &reference, 1.0);
                    loss = weighed.loss;
                    weighed.weights
                };
                let (weigh, keep) = (Weigh::Each(&mut weigh), Keep::Activations);
                engine.learn_weighted(&batch, adapter, weigh, keep, None, gradient);
                loss
            },
        );
    }
}

/// What is trained on a tiny model, with numbers that are no longer those of the start.
struct Case {
    model: Model,
    layout: Layout,
    parameters: Vec<f32>,
    rows: Vec<Row>,
    noise: Option<Noise>,
    dropout: Option<Dropout>,
}

fn case(model_type: &str, settings: &Finetune) -> Case {
    let fixture = Fixture::new(model_type);
    let mut model = Model::open(&fixture.base.path).unwrap();
    let layout = Layout::of_settings(&model, settings).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut parameters = layout.initial(&model, settings.init_lora_weights, 1);
    for value in &mut parameters {
        *value += random.random_range(-0.1..0.1);
    }
    if settings.method == Method::Qlora {
        model.quantise(Kind::Q4).unwrap();
    }
    let rows = [(9, 4), (21, 0), (1 + 16, 16), (30, 11)]
        .map(|(n, prompt)| Row {
            tokens: (0..n).map(|_| random.random_range(0..VOCABULARY as u32)).collect(),
            prompt,
        })
        .to_vec();
    Case { model, layout, parameters, rows, noise: None, dropout: None }
}

impl Case {
    fn learn(&self, batches: &[&[usize]], keep: Keep) -> (f64, Vec<f32>) {
        let mut engine = Engine::new(&self.model, 64);
        let adapter =
            Adapter { layout: &self.layout, parameters: &self.parameters, dropout: self.dropout };
        let mut gradient = vec![0.0; self.layout.len];
        let mut loss = 0.0;
        for rows in batches {
            let batch = Batch::new(rows.iter().map(|row| (&self.rows[*row], *row as u64)));
            let (weigh, noise) = (Weigh::Same(0.1), self.noise);
            let found = engine.learn_weighted(&batch, adapter, weigh, keep, noise, &mut gradient);
            loss += found.iter().map(|found| f64::from(found.loss)).sum::<f64>();
        }
        (loss, gradient)
    }

    /// Whether the derivative along random ways is the slope of the loss.
    #[track_caller]
    fn check_slopes(&mut self, name: &str, along: &[std::ops::Range<usize>]) {
        let (_, gradient) = self.learn(&[&[0, 1, 2, 3]], Keep::Activations);
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let before = self.parameters.clone();
        for place in along {
            let way: Vec<f32> = (0..place.len()).map(|_| random.random_range(-1.0..1.0)).collect();
            let mut loss = |step: f32| {
                self.parameters.clone_from(&before);
                let part = self.parameters[place.clone()].iter_mut().zip(&way);
                part.for_each(|(value, way)| *value += step * way);
                self.learn(&[&[0, 1, 2, 3]], Keep::Activations).0 * 0.1
            };
            let step = 2e-3;
            let slope = (loss(step) - loss(-step)) / (2.0 * f64::from(step));
            let part = gradient[place.clone()].iter().zip(&way);
            let expected: f64 = part.map(|(g, w)| f64::from(*g) * f64::from(*w)).sum();
            assert!(
                (slope - expected).abs() < 1.5e-2 * expected.abs().max(0.3),
                "{name} {place:?}: {slope}, {expected}"
            );
        }
        self.parameters = before;
    }
}

/// The ways to train, each with a model that has something to train.
fn ways() -> Vec<(&'static str, &'static str, Finetune)> {
    let low_rank = settings();
    let method = |method| Finetune { method, last_layers: 1, ..settings() };
    vec![
        ("dora", "qwen3", Finetune { use_dora: true, ..low_rank.clone() }),
        ("dora with biases", "qwen2", Finetune { use_dora: true, ..low_rank.clone() }),
        ("rslora", "llama", Finetune { use_rslora: true, ..low_rank.clone() }),
        ("qlora", "llama", method(Method::Qlora)),
        ("full, tied", "llama", method(Method::Full)),
        ("full, untied, biases", "qwen2", method(Method::Full)),
        ("full, head norms", "qwen3", method(Method::Full)),
        ("full, norms by 1 + weight", "gemma3_text", method(Method::Full)),
        ("last_layers", "qwen2", method(Method::LastLayers)),
        ("last_layers, norms after blocks", "gemma3_text", method(Method::LastLayers)),
        ("head, tied", "llama", method(Method::Head)),
        ("head", "qwen3", method(Method::Head)),
        ("head, scaled embeddings", "gemma3_text", method(Method::Head)),
        ("bitfit", "qwen2", method(Method::Bitfit)),
        ("soft_prompt", "qwen3", method(Method::SoftPrompt)),
        ("soft_prompt, scaled embeddings", "gemma3_text", method(Method::SoftPrompt)),
    ]
}

/// The places of each kind of parameter.
fn places(layout: &Layout) -> Vec<std::ops::Range<usize>> {
    let mut places: Vec<_> = layout.whole.values().cloned().collect();
    if layout.virtual_tokens > 0 {
        places.push(0..layout.len);
    }
    for layer in 0..2 {
        for group in crate::adapter::Group::ALL {
            let place = layout.group(layer, group);
            if !place.members.is_empty() {
                places.push(place.a.clone());
            }
            places.extend(place.members.iter().map(|member| member.1.clone()));
            places.extend(place.magnitudes.iter().cloned());
        }
    }
    places
}

/// Those whose derivative is the slope of the loss. `DoRA` leaves out how A and B change the rows'
/// lengths; theirs is compared with PEFT's.
fn slopes(layout: &Layout) -> Vec<std::ops::Range<usize>> {
    if !layout.dora {
        return places(layout);
    }
    let groups = (0..2).flat_map(|layer| crate::adapter::Group::ALL.map(|group| (layer, group)));
    groups.flat_map(|(layer, group)| layout.group(layer, group).magnitudes.clone()).collect()
}

#[test]
fn every_kind_of_parameter_has_the_slope_of_the_loss() {
    for (name, model_type, settings) in ways() {
        let mut case = case(model_type, &settings);
        let places = places(&case.layout);
        assert_eq!(places.iter().map(ExactSizeIterator::len).sum::<usize>(), case.layout.len);
        let (_, gradient) = case.learn(&[&[0, 1, 2, 3]], Keep::Activations);
        for place in &places {
            assert!(gradient[place.clone()].iter().any(|value| *value != 0.0), "{name} {place:?}");
        }
        case.check_slopes(name, &slopes(&case.layout));
    }
}

#[test]
fn a_reward_model_of_peft_rewards_and_learns_as_in_peft() {
    let model = Model::open(&folder("llama")).unwrap();
    let (layout, parameters) =
        Layout::read(&model.config, &folder("llama").join("reward")).unwrap();
    let judged: Judged = serde_json::from_value(variants()["kto"].clone()).unwrap();
    let rows: Vec<Row> =
        judged.rows.into_iter().map(|tokens| Row { tokens, prompt: judged.prompt }).collect();
    let batch = Batch::new(rows.iter().zip(0..)).ends();
    let adapter = Adapter { layout: &layout, parameters: &parameters, dropout: None };
    let found = Engine::new(&model, 64).rewards(&batch, adapter);
    let expected: Vec<f64> =
        serde_json::from_value(variants()["reward"]["rewards"].clone()).unwrap();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((f64::from(*found) - expected).abs() < 3e-5, "{found}, {expected}");
    }
    let share = 2.0 / rows.len() as f64;
    let mut step = |engine: &mut Engine<'_>, adapter: Adapter<'_>, gradient: &mut [f32]| {
        let mut loss = 0.0;
        let mut weigh = |rewards: &[f32]| {
            let weighed = preference::weigh_rewards(rewards, share);
            loss = weighed.loss * share;
            weighed.weights
        };
        let weigh = Weigh::Rewards(&mut weigh);
        engine.learn_weighted(&batch, adapter, weigh, Keep::Inputs, None, gradient);
        loss
    };
    let rates = Rates::plain(1e-2, 0.1);
    check_course("reward", &model, &layout, parameters, rates, &mut step);
}

#[test]
fn every_parameter_of_a_reward_model_has_the_slope_of_its_loss() {
    let settings = Finetune { objective: Objective::Reward, ..settings() };
    for model_type in ["llama", "qwen2"] {
        let mut case = case(model_type, &settings);
        let place = case.layout.score.clone().unwrap();
        assert_eq!(place.end, case.layout.len);
        let learn = |case: &Case| -> (f64, Vec<f32>) {
            let mut engine = Engine::new(&case.model, 64);
            let adapter =
                Adapter { layout: &case.layout, parameters: &case.parameters, dropout: None };
            let batch = Batch::new(case.rows.iter().zip(0..)).ends();
            let mut gradient = vec![0.0; case.layout.len];
            let mut loss = 0.0;
            let mut weigh = |rewards: &[f32]| {
                let weighed = preference::weigh_rewards(rewards, 1.0);
                loss = weighed.loss;
                weighed.weights
            };
            let weigh = Weigh::Rewards(&mut weigh);
            engine.learn_weighted(&batch, adapter, weigh, Keep::Inputs, None, &mut gradient);
            (loss, gradient)
        };
        let gradient = learn(&case).1;
        let before = case.parameters.clone();
        let mut random = ChaCha8Rng::seed_from_u64(5);
        for place in places(&case.layout).into_iter().chain([place]) {
            let way: Vec<f32> = (0..place.len()).map(|_| random.random_range(-1.0..1.0)).collect();
            let mut moved = |step: f32| {
                case.parameters.clone_from(&before);
                let part = case.parameters[place.clone()].iter_mut().zip(&way);
                part.for_each(|(value, way)| *value += step * way);
                learn(&case).0
            };
            let slope = (moved(2e-3) - moved(-2e-3)) / 4e-3;
            let part = gradient[place.clone()].iter().zip(&way);
            let expected: f64 = part.map(|(g, w)| f64::from(*g) * f64::from(*w)).sum();
            assert!(
                (slope - expected).abs() < 1.5e-2 * expected.abs().max(0.3),
                "{model_type} {place:?}: {slope}, {expected}"
            );
            case.parameters.clone_from(&before);
        }
    }
}

#[test]
fn checkpointing_changes_no_bit_of_any_method() {
    for (name, model_type, settings) in ways() {
        let mut case = case(model_type, &settings);
        case.noise = Some(Noise { alpha: 5.0, seed: 2 });
        let kept = case.learn(&[&[0, 1], &[2, 3]], Keep::Activations);
        assert_eq!(case.learn(&[&[0, 1], &[2, 3]], Keep::Inputs), kept, "{name}");
    }
}

#[test]
fn packed_rows_are_learnt_as_single_ones_by_every_method() {
    for (name, model_type, settings) in ways() {
        let mut case = case(model_type, &settings);
        case.noise = Some(Noise { alpha: 5.0, seed: 2 });
        let (loss, gradient) = case.learn(&[&[0, 1, 2, 3]], Keep::Activations);
        let alone = case.learn(&[&[0], &[1], &[2], &[3]], Keep::Activations);
        assert!((loss - alone.0).abs() < 1e-5 * loss, "{name}: {loss}, {}", alone.0);
        let size = gradient.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        for (packed, alone) in gradient.iter().zip(&alone.1) {
            assert!((packed - alone).abs() < 2e-5 * size, "{name}: {packed}, {alone}");
        }
    }
}

#[test]
fn dora_with_dropout_has_the_slope_of_what_was_kept() {
    let mut case = case("llama", &Finetune { use_dora: true, ..settings() });
    case.dropout = Some(Dropout { share: 0.3, seed: 4 });
    let places = slopes(&case.layout);
    case.check_slopes("dora with dropout", &places);
}

#[test]
fn noise_moves_embeddings_by_as_much_as_it_should() {
    let mut case = case("llama", &settings());
    let plain = case.learn(&[&[1]], Keep::Activations).0;
    let mut moved = |alpha: f32, seed: u64| {
        case.noise = Some(Noise { alpha, seed });
        (case.learn(&[&[1]], Keep::Activations).0 - plain).abs()
    };
    assert!(moved(0.0, 1) < 1e-9);
    assert!(moved(5.0, 1) > 1e-3);
    assert_ne!(moved(5.0, 1).to_bits(), moved(5.0, 2).to_bits());
    assert_eq!(moved(5.0, 1).to_bits(), moved(5.0, 1).to_bits());
}

#[test]
fn a_merged_model_is_what_was_trained() {
    for (name, model_type, settings) in ways() {
        if matches!(settings.method, Method::Qlora | Method::SoftPrompt) {
            // Trained over other weights than it is served on, or no part of them: the job's tests
            // compare it.
            continue;
        }
        let mut case = case(model_type, &settings);
        let batch = Batch::new(case.rows.iter().zip(0..));
        let adapter = Adapter { layout: &case.layout, parameters: &case.parameters, dropout: None };
        let expected = Engine::new(&case.model, 64).predict(&batch, Some(adapter));
        fold_in(&mut case.model, &case.layout, &case.parameters);
        let found = Engine::new(&case.model, 64).predict(&batch, None);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found.loss - expected.loss).abs() < 1e-4, "{name}: {found:?} {expected:?}");
        }
    }
}
