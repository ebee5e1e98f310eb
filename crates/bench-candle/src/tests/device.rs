//! The passes over tensors against those over slices: every family, every method, and on a GPU where
//! there is one.

use bench_core::spec::{Finetune, InitLoraWeights, Method, Objective};
use candle_core::{DType, Device};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::fixture::{Fixture, VOCABULARY, settings};
use crate::adapter::Layout;
use crate::blocks::Kind;
use crate::data::{Batch, Row};
use crate::device::{self, Place};
use crate::model::Model;
use crate::ops::loss::Prediction;
use crate::step::{Adapter, Dropout, Engine, Keep, Noise, Weigh};

/// Places to run on, each with the size of error that its numbers make.
pub(super) fn places() -> Vec<(Place, f32)> {
    let cpu = |dtype| Place { device: Device::Cpu, dtype };
    let mut places = vec![(cpu(DType::F32), 1e-4), (cpu(DType::F16), 2e-2)];
    if cfg!(feature = "cuda") {
        let device = Device::new_cuda(0).expect("a build with feature `cuda` is tested on a GPU");
        let on_gpu = |dtype| Place { device: device.clone(), dtype };
        places.extend([(on_gpu(DType::F32), 1e-3), (on_gpu(DType::BF16), 1e-1)]);
    }
    places
}

/// A step of one of the two: gives predictions, adds to a gradient.
type OneStep<'a> = dyn FnMut(&Batch, Weigh<'_>, &mut [f32]) -> Vec<Prediction> + 'a;

/// What one step found.
struct Found {
    predictions: Vec<Prediction>,
    gradient: Vec<f32>,
}

/// The root of the mean square of the difference, over that of what is expected.
fn apart(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let square = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| f64::from(value).powi(2)).sum::<f64>()
    };
    let difference = square(&mut found.iter().zip(expected).map(|(f, e)| f - e));
    let size = square(&mut expected.iter().copied());
    assert!(size > 0.0, "nothing is learnt");
    (difference / size).sqrt() as f32
}

/// Rows of different lengths, and of the same one.
fn rows(random: &mut ChaCha8Rng, lengths: [(usize, usize); 4]) -> Vec<Row> {
    let mut row = |(n, prompt)| Row {
        tokens: (0..n).map(|_| random.random_range(0..VOCABULARY as u32)).collect(),
        prompt,
    };
    lengths.into_iter().map(&mut row).collect()
}

const RAGGED: [(usize, usize); 4] = [(9, 4), (21, 0), (17, 16), (40, 11)];
const EVEN: [(usize, usize); 4] = [(16, 4), (16, 0), (16, 15), (16, 9)];

/// Compares a step of both, and what both predict.
fn check(what: &str, model_type: &str, settings: &Finetune, change: impl Fn(&mut Model)) {
    check_with(what, model_type, settings, [None, None], RAGGED, change);
}

fn check_with(
    what: &str,
    model_type: &str,
    settings: &Finetune,
    [dropout, noise]: [Option<f32>; 2],
    lengths: [(usize, usize); 4],
    change: impl Fn(&mut Model),
) {
    let fixture = Fixture::new(model_type);
    let mut model = Model::open(&fixture.base.path).unwrap();
    change(&mut model);
    let layout = Layout::of_settings(&model, settings).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut parameters = layout.initial(&model, InitLoraWeights::Default, 0);
    for value in &mut parameters {
        *value += random.random_range(-0.1..0.1);
    }
    let rows = rows(&mut random, lengths);
    let adapter = Adapter {
        layout: &layout,
        parameters: &parameters,
        dropout: dropout.map(|share| Dropout { share, seed: 5 }),
    };
    let noise = noise.map(|alpha| Noise { alpha, seed: 6 });
    let batch = || Batch::new(rows.iter().zip(3..));
    let rewards = settings.objective == Objective::Reward;
    let each = settings.objective != Objective::Sft && !rewards;
    let learn = |step: &mut OneStep<'_>| {
        let mut gradient = vec![0.5; layout.len];
        let mut of_rewards = |rewards: &[f32]| rewards.iter().map(|r| 0.1 + r.sin()).collect();
        let mut of_each = |found: &[Prediction]| found.iter().map(|p| p.loss.sin()).collect();
        let (batch, weigh) = if rewards {
            (batch().ends(), Weigh::Rewards(&mut of_rewards))
        } else if each {
            (batch(), Weigh::Each(&mut of_each))
        } else {
            (batch(), Weigh::Same(0.1))
        };
        let predictions = step(&batch, weigh, &mut gradient);
        for value in &mut gradient {
            *value -= 0.5;
        }
        Found { predictions, gradient }
    };
    let mut engine = Engine::new(&model, 64 + layout.virtual_tokens);
    let expected = learn(&mut |batch, weigh, gradient| {
        engine.learn_weighted(batch, adapter, weigh, Keep::Activations, noise, gradient)
    });
    let adapter_at_rest = Adapter { dropout: None, ..adapter };
    let predicted = engine.predict(&batch(), Some(adapter_at_rest));
    let losses = |found: &[Prediction]| found.iter().map(|p| p.loss).collect::<Vec<_>>();
    for (place, tolerance) in places() {
        let on = format!("{what} of {model_type} on {place:?}");
        let device = device::Engine::new(&model, Some(&layout), place.clone()).unwrap();
        for keep in [Keep::Activations, Keep::Inputs] {
            let found = learn(&mut |batch, weigh, gradient| {
                device.learn_weighted(batch, adapter, weigh, keep, noise, gradient).unwrap()
            });
            let error = apart(&found.gradient, &expected.gradient);
            assert!(error < tolerance, "{on}: the gradients are {error} apart");
            assert_eq!(found.predictions.len(), expected.predictions.len());
            if !rewards {
                let error = apart(&losses(&found.predictions), &losses(&expected.predictions));
                assert!(error < tolerance, "{on}: the losses are {error} apart");
            }
        }
        let found = device.predict(&batch(), Some(adapter_at_rest)).unwrap();
        let error = apart(&losses(&found), &losses(&predicted));
        assert!(error < tolerance, "{on}: what is predicted is {error} apart");
        if place.dtype == DType::F32 {
            let top = |found: &[Prediction]| found.iter().map(|p| p.top).collect::<Vec<_>>();
            assert_eq!(top(&found), top(&predicted), "{on}");
        }
    }
}

#[test]
fn a_step_over_tensors_is_that_over_slices_for_every_family() {
    for model_type in ["llama", "mistral", "qwen2", "qwen3", "gemma3_text"] {
        check("lora", model_type, &settings(), |_| {});
        check_with("even rows", model_type, &settings(), [None, None], EVEN, |_| {});
    }
    check("a window", "mistral", &settings(), |model| {
        model.config.window = Some(5);
        model.config.windowed = vec![true, false];
    });
}

#[test]
fn a_step_over_tensors_is_that_over_slices_for_every_method() {
    for (what, change) in [
        ("dora", (|s| s.use_dora = true) as fn(&mut Finetune)),
        ("some modules", |s| s.target_modules = vec!["v_proj".into(), "up_proj".into()]),
        ("last layer", |s| (s.method, s.last_layers) = (Method::LastLayers, 1)),
        ("head", |s| s.method = Method::Head),
        ("full", |s| s.method = Method::Full),
        ("soft prompt", |s| (s.method, s.num_virtual_tokens) = (Method::SoftPrompt, 3)),
        ("weights of each loss", |s| s.objective = Objective::Orpo),
        ("rewards", |s| s.objective = Objective::Reward),
    ] {
        let mut settings = settings();
        change(&mut settings);
        for model_type in ["llama", "qwen3", "gemma3_text"] {
            check(what, model_type, &settings, |_| {});
        }
    }
    let biases = Finetune { method: Method::Bitfit, ..settings() };
    check("biases", "qwen2", &biases, |_| {});
    for noise in [[Some(0.3), None], [None, Some(5.0)]] {
        check_with("dropout or noise", "qwen2", &settings(), noise, RAGGED, |_| {});
    }
}

#[test]
fn a_step_over_tensors_unpacks_a_quantised_base_as_that_over_slices_does() {
    for kind in [Kind::Q4, Kind::Q5, Kind::Q8] {
        let settings = Finetune { method: Method::Qlora, ..settings() };
        check("qlora", "llama", &settings, |model| model.quantise(kind).unwrap());
    }
}
