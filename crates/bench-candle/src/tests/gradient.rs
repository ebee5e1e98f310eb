//! Our derivatives against candle's, which knows only primitives, and against finite differences.

use bench_core::spec::InitLoraWeights;
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::ops::softmax;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::fixture::{Fixture, VOCABULARY, settings};
use crate::adapter::{Group, Layout};
use crate::data::{Batch, Row};
use crate::model::{Linear, Model, Projection};
use crate::step::{Adapter, Dropout, Engine, Keep};

/// A decoder in candle's primitives, for one row.
struct Reference<'a> {
    model: &'a Model,
    layout: &'a Layout,
    parameters: &'a Var,
}

fn tensor(numbers: &[f32], shape: (usize, usize)) -> Tensor {
    Tensor::from_slice(numbers, shape, &Device::Cpu).unwrap()
}

impl Reference<'_> {
    fn norm(&self, x: &Tensor, w: &[f32]) -> Tensor {
        let mean = x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        let root = (mean + f64::from(self.model.config.norm_epsilon)).unwrap().sqrt().unwrap();
        let w = Tensor::new(w, &Device::Cpu).unwrap();
        x.broadcast_div(&root).unwrap().broadcast_mul(&w).unwrap()
    }

    fn linear(&self, layer: usize, projection: Projection, x: &Tensor) -> Tensor {
        let (rows, columns) = projection.shape(&self.model.config);
        let Linear { weight, bias, .. } = self.model.layers[layer].linear(projection);
        let mut y = x.matmul(&tensor(weight, (rows, columns)).t().unwrap()).unwrap();
        if let Some(bias) = bias {
            y = y.broadcast_add(&Tensor::new(&**bias, &Device::Cpu).unwrap()).unwrap();
        }
        for group in Group::ALL {
            let place = self.layout.group(layer, group);
            let Some(i) = place.members.iter().position(|member| member.0 == projection) else {
                continue;
            };
            let rank = self.layout.rank;
            let part = |from: usize, shape: (usize, usize)| {
                self.parameters.narrow(0, from, shape.0 * shape.1).unwrap().reshape(shape).unwrap()
            };
            let a = part(place.a.start + i * rank * columns, (rank, columns));
            let b = part(place.members[i].1.start, (rows, rank));
            let low = x.matmul(&a.t().unwrap()).unwrap().matmul(&b.t().unwrap()).unwrap();
            y = (y + (low * f64::from(self.layout.scale())).unwrap()).unwrap();
        }
        y
    }

    fn heads(&self, x: &Tensor, heads: usize, norm: Option<&[f32]>, turn: bool) -> Tensor {
        let config = &self.model.config;
        let n = x.dim(0).unwrap();
        let mut x = x.reshape((n, heads, config.head)).unwrap();
        if let Some(w) = norm {
            x = self.norm(&x, w);
        }
        if turn {
            let angles = (0..n)
                .flat_map(|p| config.frequencies.iter().map(move |f| (p as f64 * f) as f32))
                .collect::<Vec<_>>();
            let angles = Tensor::from_vec(angles, (n, 1, config.head / 2), &Device::Cpu).unwrap();
            let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
            let half = config.head / 2;
            let (a, b) = (x.narrow(2, 0, half).unwrap(), x.narrow(2, half, half).unwrap());
            let first = (a.broadcast_mul(&cos).unwrap() - b.broadcast_mul(&sin).unwrap()).unwrap();
            let second = (b.broadcast_mul(&cos).unwrap() + a.broadcast_mul(&sin).unwrap()).unwrap();
            x = Tensor::cat(&[first, second], 2).unwrap();
        }
        x.transpose(0, 1).unwrap().contiguous().unwrap()
    }

    /// The summed loss over a row's targets.
    fn loss(&self, row: &Row) -> Tensor {
        let config = &self.model.config;
        let n = row.tokens.len();
        let ids = Tensor::new(row.tokens.as_slice(), &Device::Cpu).unwrap();
        let table = tensor(&self.model.embedding, (VOCABULARY, config.hidden));
        let mut x = table.index_select(&ids, 0).unwrap();
        let mask: Vec<f32> =
            (0..n * n).map(|i| if i % n > i / n { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = tensor(&mask, (n, n));
        for (index, layer) in self.model.layers.iter().enumerate() {
            let h = self.norm(&x, &layer.attention_norm);
            let norms = layer.head_norms.as_ref().map(|[q, k]| (&**q, &**k));
            let q = self.linear(index, Projection::Q, &h);
            let k = self.linear(index, Projection::K, &h);
            let v = self.linear(index, Projection::V, &h);
            let q = self.heads(&q, config.heads, norms.map(|norms| norms.0), true);
            let group = config.heads / config.key_heads;
            let spread = |x: Tensor| {
                let heads: Vec<_> =
                    (0..config.heads).map(|head| x.narrow(0, head / group, 1).unwrap()).collect();
                Tensor::cat(&heads, 0).unwrap()
            };
            let k = spread(self.heads(&k, config.key_heads, norms.map(|norms| norms.1), true));
            let v = spread(self.heads(&v, config.key_heads, None, false));
            let scores = q.matmul(&k.t().unwrap().contiguous().unwrap()).unwrap();
            let scores = (scores / (config.head as f64).sqrt()).unwrap();
            let shares = softmax(&scores.broadcast_add(&mask).unwrap(), D::Minus1).unwrap();
            let attended = shares.matmul(&v).unwrap().transpose(0, 1).unwrap();
            let attended = attended.contiguous().unwrap().reshape((n, config.query())).unwrap();
            x = (x + self.linear(index, Projection::O, &attended)).unwrap();
            let h = self.norm(&x, &layer.mlp_norm);
            let gate = self.linear(index, Projection::Gate, &h).silu().unwrap();
            let value = (gate * self.linear(index, Projection::Up, &h)).unwrap();
            x = (x + self.linear(index, Projection::Down, &value)).unwrap();
        }
        let x = self.norm(&x, &self.model.norm);
        let head = tensor(self.model.head(), (VOCABULARY, config.hidden));
        let logits = x.matmul(&head.t().unwrap()).unwrap();
        let log_shares = candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap();
        let first = row.prompt.max(1);
        let sources = log_shares.narrow(0, first - 1, n - first).unwrap();
        let targets = Tensor::new(&row.tokens[first..], &Device::Cpu).unwrap();
        let picked = sources.gather(&targets.unsqueeze(1).unwrap(), 1).unwrap();
        picked.sum_all().unwrap().neg().unwrap()
    }
}

struct Case {
    fixture: Fixture,
    layout: Layout,
    parameters: Vec<f32>,
    rows: Vec<Row>,
}

/// An adapter without zeros, and rows of different lengths.
fn case(model_type: &str) -> Case {
    let fixture = Fixture::new(model_type);
    let model = Model::open(&fixture.base.path).unwrap();
    let layout = Layout::of_settings(&model, &settings()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let parameters = (0..layout.len).map(|_| random.random_range(-0.2..0.2)).collect();
    let rows = [(9, 4), (21, 0), (1 + 16, 16), (40, 11)]
        .map(|(n, prompt)| Row {
            tokens: (0..n).map(|_| random.random_range(0..VOCABULARY as u32)).collect(),
            prompt,
        })
        .to_vec();
    Case { fixture, layout, parameters, rows }
}

impl Case {
    fn learn(&self, batches: &[&[usize]], dropout: Option<Dropout>, keep: Keep) -> (f64, Vec<f32>) {
        let model = Model::open(&self.fixture.base.path).unwrap();
        let mut engine = Engine::new(&model, 64);
        let adapter = Adapter { layout: &self.layout, parameters: &self.parameters, dropout };
        let mut gradient = vec![0.0; self.layout.len];
        let mut loss = 0.0;
        for rows in batches {
            let batch = Batch::new(rows.iter().map(|row| (&self.rows[*row], *row as u64)));
            loss += engine.learn(&batch, adapter, 0.1, keep, &mut gradient);
        }
        (loss, gradient)
    }
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * size, "{i}: {found} is not {expected}");
    }
}

#[test]
fn loss_and_gradients_of_every_family_are_those_of_primitives() {
    for model_type in ["llama", "mistral", "qwen2", "qwen3"] {
        let case = case(model_type);
        let (loss, gradient) = case.learn(&[&[0, 1, 2, 3]], None, Keep::Activations);
        let model = Model::open(&case.fixture.base.path).unwrap();
        let parameters = Var::from_slice(&case.parameters, case.layout.len, &Device::Cpu).unwrap();
        let reference = Reference { model: &model, layout: &case.layout, parameters: &parameters };
        let losses = case.rows.iter().map(|row| reference.loss(row));
        let expected = losses.reduce(|a, b| (a + b).unwrap()).unwrap();
        let gradients = (&expected * 0.1).unwrap().backward().unwrap();
        let expected = f64::from(expected.to_scalar::<f32>().unwrap());
        assert!((loss - expected).abs() < 1e-4 * expected, "{model_type}: {loss}, {expected}");
        let expected = gradients.get(&parameters).unwrap().to_vec1::<f32>().unwrap();
        assert_near(&gradient, &expected, 2e-5);
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    for model_type in ["llama", "gemma3_text"] {
        check_slopes(case(model_type));
    }
}

fn check_slopes(mut case: Case) {
    let (_, gradient) = case.learn(&[&[0, 1, 2, 3]], None, Keep::Activations);
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..4 {
        let way: Vec<f32> = (0..case.layout.len).map(|_| random.random_range(-1.0..1.0)).collect();
        let before = case.parameters.clone();
        let mut loss = |step: f32| {
            case.parameters = before.iter().zip(&way).map(|(p, w)| p + step * w).collect();
            case.learn(&[&[0, 1, 2, 3]], None, Keep::Activations).0 * 0.1
        };
        let step = 5e-4;
        let slope = (loss(step) - loss(-step)) / (2.0 * f64::from(step));
        case.parameters = before;
        let expected: f64 =
            gradient.iter().zip(&way).map(|(g, w)| f64::from(*g) * f64::from(*w)).sum();
        assert!((slope - expected).abs() < 5e-3 * expected.abs().max(1.0), "{slope}, {expected}");
    }
}

#[test]
fn checkpointing_changes_no_bit() {
    let dropout = Some(Dropout { share: 0.3, seed: 1 });
    for (model_type, dropout) in [("qwen3", None), ("qwen3", dropout), ("gemma3_text", None)] {
        let case = case(model_type);
        let kept = case.learn(&[&[0, 1], &[2, 3]], dropout, Keep::Activations);
        assert_eq!(case.learn(&[&[0, 1], &[2, 3]], dropout, Keep::Inputs), kept);
    }
}

#[test]
fn packed_rows_do_not_see_each_other_and_four_passes_of_one_row_equal_one_of_four() {
    let case = case("qwen2");
    for dropout in [None, Some(Dropout { share: 0.3, seed: 1 })] {
        let (loss, gradient) = case.learn(&[&[0, 1, 2, 3]], dropout, Keep::Activations);
        let alone = case.learn(&[&[0], &[1], &[2], &[3]], dropout, Keep::Activations);
        assert!((loss - alone.0).abs() < 1e-5 * loss, "{loss}, {}", alone.0);
        assert_near(&gradient, &alone.1, 1e-5);
    }
}

#[test]
fn dropout_leaves_the_mean_and_its_gradient_is_that_of_what_it_kept() {
    let mut case = case("llama");
    let dropout = Some(Dropout { share: 0.5, seed: 9 });
    let (with, gradient) = case.learn(&[&[1, 3]], dropout, Keep::Activations);
    let (without, _) = case.learn(&[&[1, 3]], None, Keep::Activations);
    assert!((with - without).abs() > 1e-3, "dropout does something");
    let i = (0..gradient.len()).max_by(|a, b| gradient[*a].total_cmp(&gradient[*b])).unwrap();
    let mut loss = |step: f32| {
        case.parameters[i] += step;
        let loss = case.learn(&[&[1, 3]], dropout, Keep::Activations).0 * 0.1;
        case.parameters[i] -= step;
        loss
    };
    let slope = (loss(1e-2) - loss(-1e-2)) / 2e-2;
    assert!(
        (slope - f64::from(gradient[i])).abs() < 2e-2 * slope.abs(),
        "{slope}, {}",
        gradient[i]
    );
}

#[test]
fn every_adapter_tensor_gets_a_gradient() {
    for model_type in ["llama", "mistral", "qwen2", "qwen3", "gemma3_text"] {
        check_every_tensor(model_type);
    }
}

fn check_every_tensor(model_type: &str) {
    let mut case = case(model_type);
    let model = Model::open(&case.fixture.base.path).unwrap();
    let initial = case.layout.initial(&model, InitLoraWeights::Default, 0);
    let mut check = |parameters: Vec<f32>, a_too: bool| {
        case.parameters = parameters;
        let (_, gradient) = case.learn(&[&[0, 1, 2, 3]], None, Keep::Activations);
        for layer in 0..model.config.layers {
            for group in Group::ALL {
                let place = case.layout.group(layer, group);
                let rows = place.members.len();
                let a = &gradient[place.a.clone()];
                for part in a.chunks(a.len() / rows) {
                    assert_eq!(
                        part.iter().any(|value| *value != 0.0),
                        a_too,
                        "A, {layer} {group:?}"
                    );
                }
                for (projection, b) in &place.members {
                    let any = gradient[b.clone()].iter().any(|value| *value != 0.0);
                    assert!(any, "B of {projection:?} in layer {layer}");
                }
            }
        }
    };
    // B is zero at the start, so A learns from the second step on.
    check(initial.clone(), false);
    check(initial.iter().map(|value| value + 0.01).collect(), true);
}

#[test]
fn a_tensor_of_every_numeric_type_is_read_as_it_was_written() {
    let fixture = Fixture::new("llama");
    let path = fixture.base.path.join("model.safetensors");
    let device = Device::Cpu;
    let tensors = candle_core::safetensors::load(&path, &device).unwrap();
    let exact = Model::open(&fixture.base.path).unwrap().norm.to_vec();
    for (kind, tolerance) in [(DType::F16, 1e-3), (DType::BF16, 1e-2)] {
        let folder = fixture.path(kind.as_str());
        fs_err::create_dir(&folder).unwrap();
        fs_err::copy(fixture.base.path.join("config.json"), folder.join("config.json")).unwrap();
        let narrow = tensors.iter().map(|(name, t)| (name.clone(), t.to_dtype(kind).unwrap()));
        let narrow = narrow.collect();
        candle_core::safetensors::save(&narrow, folder.join("model.safetensors")).unwrap();
        let model = Model::open(&folder).unwrap();
        assert_near(&model.norm, &exact, tolerance);
        let wide = narrow["model.norm.weight"].to_dtype(DType::F32).unwrap();
        assert_eq!(model.norm.to_vec(), wide.to_vec1::<f32>().unwrap());
    }
}
