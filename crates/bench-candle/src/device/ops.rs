//! The parts of a layer as tensor operations, each with its way back.
//!
//! Rows lie one token after the other. What is summed up (norms, softmax, gates) is computed in f32
//! whatever numbers the rows are in.

use candle_core::{D, DType, Device, Result, Tensor};

use crate::data::Batch;
use crate::ops::{attention::Heads, swiglu::Activation};

/// Attention scores that exist at a time, in numbers.
const SCORES: usize = 1 << 28;

/// `x` divided by the root of its mean square, times `w` (Zhang and Sennrich 2019), over the last
/// dimension.
pub(super) fn norm(x: &Tensor, w: &Tensor, epsilon: f32) -> Result<Tensor> {
    let (unit, _) = normalised(x, epsilon)?;
    unit.broadcast_mul(w)?.to_dtype(x.dtype())
}

/// The derivative to a norm's input, and for each row that to `w`, both in f32.
pub(super) fn norm_backward(
    d: &Tensor,
    x: &Tensor,
    w: &Tensor,
    epsilon: f32,
) -> Result<(Tensor, Tensor)> {
    let (unit, inverse) = normalised(x, epsilon)?;
    let d = d.to_dtype(DType::F32)?;
    let dw = (&d * &unit)?;
    let scaled = d.broadcast_mul(w)?;
    let along = (&scaled * &unit)?.mean_keepdim(D::Minus1)?;
    let dx = (scaled - unit.broadcast_mul(&along)?)?.broadcast_mul(&inverse)?;
    Ok((dx, dw))
}

fn normalised(x: &Tensor, epsilon: f32) -> Result<(Tensor, Tensor)> {
    let x = x.to_dtype(DType::F32)?;
    let square = x.sqr()?.mean_keepdim(D::Minus1)?;
    let inverse = (square + f64::from(epsilon))?.sqrt()?.recip()?;
    Ok((x.broadcast_mul(&inverse)?, inverse))
}

/// Cosines and sines of a batch's tokens: (tokens, 1, half a head).
pub(super) struct Turns {
    cos: Tensor,
    sin: Tensor,
}

impl Turns {
    pub(super) fn new(frequencies: &[f64], positions: &[u32], device: &Device) -> Result<Self> {
        let angles = positions.iter().flat_map(|p| frequencies.iter().map(|f| f64::from(*p) * f));
        // As on the processor: transformers computes the angle in f32.
        let angles: Vec<f32> = angles.map(|angle| angle as f32).collect();
        let table = |of: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|angle| of(*angle)).collect();
            Tensor::from_vec(values, (positions.len(), 1, frequencies.len()), device)
        };
        Ok(Self { cos: table(f32::cos)?, sin: table(f32::sin)? })
    }

    /// The same turned the other way.
    pub(super) fn back(&self) -> Result<Self> {
        Ok(Self { cos: self.cos.clone(), sin: self.sin.neg()? })
    }

    /// Turns the first `heads` heads of each row (Su et al. 2021).
    pub(super) fn turn(&self, rows: &Tensor, heads: usize, head: usize) -> Result<Tensor> {
        let (n, columns) = rows.dims2()?;
        let (width, half) = (heads * head, head / 2);
        let turned = rows.narrow(1, 0, width)?.reshape((n, heads, head))?.to_dtype(DType::F32)?;
        let (a, b) = (turned.narrow(2, 0, half)?, turned.narrow(2, half, half)?);
        let first = (a.broadcast_mul(&self.cos)? - b.broadcast_mul(&self.sin)?)?;
        let second = (b.broadcast_mul(&self.cos)? + a.broadcast_mul(&self.sin)?)?;
        let turned = Tensor::cat(&[first, second], 2)?.reshape((n, width))?;
        Tensor::cat(&[turned.to_dtype(rows.dtype())?, rows.narrow(1, width, columns - width)?], 1)
    }
}

/// How a batch's rows of tokens lie beside each other, the shorter ones filled up at the end.
pub(super) struct Grid {
    rows: usize,
    longest: usize,
    /// For each place of the grid its token, or one beyond the last, and for each token its place; none
    /// where all rows are equally long.
    places: Option<(Tensor, Tensor)>,
    /// What is added to scores where all earlier keys are seen.
    mask: Tensor,
    /// The same for layers that see a window of keys.
    windowed: Option<Tensor>,
}

impl Grid {
    /// `window` is that of windowed layers.
    pub(super) fn new(batch: &Batch, window: Option<usize>, device: &Device) -> Result<Self> {
        let longest = batch.segments.iter().map(std::ops::Range::len).max().unwrap_or(0);
        let rows = batch.segments.len();
        let tokens = batch.tokens.len();
        if rows * longest == tokens {
            return Self::masked(rows, longest, None, window, device);
        }
        let mut from = vec![tokens as u32; rows * longest];
        let mut to = vec![0; tokens];
        for (row, segment) in batch.segments.iter().enumerate() {
            for (column, token) in segment.clone().enumerate() {
                from[row * longest + column] = token as u32;
                to[token] = (row * longest + column) as u32;
            }
        }
        let places = (place(from, device)?, place(to, device)?);
        Self::masked(rows, longest, Some(places), window, device)
    }

    fn masked(
        rows: usize,
        longest: usize,
        places: Option<(Tensor, Tensor)>,
        window: Option<usize>,
        device: &Device,
    ) -> Result<Self> {
        let windowed = window.map(|window| mask(longest, window, device)).transpose()?;
        Ok(Self { rows, longest, places, mask: mask(longest, usize::MAX, device)?, windowed })
    }

    /// (tokens, columns) as (rows, longest, columns).
    fn spread(&self, x: &Tensor) -> Result<Tensor> {
        let columns = x.dim(1)?;
        let spread = match &self.places {
            None => x.contiguous()?,
            Some((from, _)) => {
                let nothing = Tensor::zeros((1, columns), x.dtype(), x.device())?;
                Tensor::cat(&[x, &nothing], 0)?.index_select(from, 0)?
            }
        };
        spread.reshape((self.rows, self.longest, columns))
    }

    /// The way back.
    fn gather(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?.reshape((self.rows * self.longest, x.dim(2)?))?;
        match &self.places {
            None => Ok(x),
            Some((_, to)) => x.index_select(to, 0),
        }
    }

    fn mask(&self, window: Option<usize>) -> &Tensor {
        self.windowed.as_ref().filter(|_| window.is_some()).unwrap_or(&self.mask)
    }
}

/// Nothing for the keys that a query sees, of `window` its own included, and minus infinity for others.
fn mask(n: usize, window: usize, device: &Device) -> Result<Tensor> {
    let sees = |query: usize, key: usize| key <= query && query - key < window;
    let mask = (0..n * n).map(|i| if sees(i / n, i % n) { 0.0f32 } else { f32::NEG_INFINITY });
    Tensor::from_vec(mask.collect(), (1, 1, n, n), device)
}

fn place(places: Vec<u32>, device: &Device) -> Result<Tensor> {
    let n = places.len();
    Tensor::from_vec(places, n, device)
}

/// Causal attention with grouped heads: a row of queries, keys and values for each token becomes a row
/// of all query heads. Nothing is kept: the way back computes the scores again.
pub(super) fn attention(qkv: &Tensor, grid: &Grid, heads: Heads) -> Result<Tensor> {
    let mut attended = Vec::new();
    for part in Part::of(qkv, grid, heads)? {
        attended.push(part.attended(&part.shares()?.matmul(&part.v)?)?);
    }
    grid.gather(&Tensor::cat(&attended, 0)?)
}

/// The derivative to queries, keys and values from that to what [`attention`] gave.
pub(super) fn attention_backward(
    qkv: &Tensor,
    grid: &Grid,
    heads: Heads,
    d: &Tensor,
) -> Result<Tensor> {
    let d = grid.spread(d)?;
    let (mut all, mut from) = (Vec::new(), 0);
    for part in Part::of(qkv, grid, heads)? {
        let rows = part.q.dim(0)?;
        let d = part.queries(&d.narrow(0, from, rows)?)?;
        from += rows;
        let shares = part.shares()?;
        let dv = shares.transpose(2, 3)?.matmul(&d)?;
        let d_shares = d.matmul(&part.v.transpose(2, 3)?.contiguous()?)?.to_dtype(DType::F32)?;
        let shares = shares.to_dtype(DType::F32)?;
        let along = (&shares * &d_shares)?.sum_keepdim(D::Minus1)?;
        let d_scores = (shares * d_shares.broadcast_sub(&along)?)?;
        let d_scores = (d_scores * f64::from(heads.scale))?.to_dtype(d.dtype())?;
        let dq = part.attended(&d_scores.matmul(&part.k)?)?;
        let dk = d_scores.transpose(2, 3)?.matmul(&part.q)?;
        let [dk, dv] = [dk, dv].map(|x| part.keys(&x));
        all.push(Tensor::cat(&[dq, dk?, dv?], 2)?);
    }
    grid.gather(&Tensor::cat(&all, 0)?)
}

/// Some rows of a grid, their heads apart: the queries of all heads that share a key head lie one
/// after the other.
struct Part<'a> {
    heads: Heads,
    grid: &'a Grid,
    /// (rows, key heads, group * longest, head)
    q: Tensor,
    /// (rows, key heads, longest, head)
    k: Tensor,
    v: Tensor,
}

impl<'a> Part<'a> {
    /// All rows, as many at a time as their scores have room.
    fn of(qkv: &Tensor, grid: &'a Grid, heads: Heads) -> Result<Vec<Self>> {
        let all = grid.spread(qkv)?;
        let (query, key) = (heads.query(), heads.key_heads * heads.head);
        let at_a_time = (SCORES / (heads.query_heads * grid.longest.pow(2)).max(1)).max(1);
        let part = |from: usize| {
            let rows = all.narrow(0, from, at_a_time.min(grid.rows - from))?;
            let none = rows.narrow(2, 0, 0)?;
            let mut part = Self { heads, grid, q: none.clone(), k: none.clone(), v: none };
            part.q = part.queries(&rows.narrow(2, 0, query)?)?;
            let keys = |from: usize| {
                let rows = rows.narrow(2, from, key)?.contiguous()?;
                let apart = (rows.dim(0)?, grid.longest, heads.key_heads, heads.head);
                rows.reshape(apart)?.transpose(1, 2)?.contiguous()
            };
            (part.k, part.v) = (keys(query)?, keys(query + key)?);
            Ok(part)
        };
        (0..grid.rows).step_by(at_a_time).map(part).collect()
    }

    /// How much of each key a query takes: (rows, key heads, group * longest, longest).
    fn shares(&self) -> Result<Tensor> {
        let scores = self.q.matmul(&self.k.transpose(2, 3)?.contiguous()?)?;
        let (rows, n) = (scores.dim(0)?, self.grid.longest);
        let scores = (scores.to_dtype(DType::F32)? * f64::from(self.heads.scale))?;
        let scores = scores.reshape((rows, self.heads.query_heads, n, n))?;
        let scores = scores.broadcast_add(self.grid.mask(self.heads.window))?;
        let shares = candle_nn::ops::softmax_last_dim(&scores)?;
        let (keys, group) = (self.heads.key_heads, self.heads.group());
        shares.reshape((rows, keys, group * n, n))?.to_dtype(self.q.dtype())
    }

    /// A row of all query heads for each token, as they are here.
    fn queries(&self, rows: &Tensor) -> Result<Tensor> {
        let Heads { key_heads, head, .. } = self.heads;
        let (n, group) = (self.grid.longest, self.heads.group());
        let count = rows.dim(0)?;
        let apart = rows.contiguous()?.reshape((count, n, key_heads, group, head))?;
        apart.permute((0, 2, 3, 1, 4))?.contiguous()?.reshape((count, key_heads, group * n, head))
    }

    /// The way back.
    fn attended(&self, heads: &Tensor) -> Result<Tensor> {
        let Heads { key_heads, head, .. } = self.heads;
        let (n, group) = (self.grid.longest, self.heads.group());
        let count = heads.dim(0)?;
        let apart = heads.contiguous()?.reshape((count, key_heads, group, n, head))?;
        let rows = apart.permute((0, 3, 1, 2, 4))?.contiguous()?;
        rows.reshape((count, n, self.heads.query()))
    }

    /// A row of all key heads for each token.
    fn keys(&self, heads: &Tensor) -> Result<Tensor> {
        let Heads { key_heads, head, .. } = self.heads;
        let rows = heads.transpose(1, 2)?.contiguous()?;
        rows.reshape((heads.dim(0)?, self.grid.longest, key_heads * head))
    }
}

/// `f(gate) * up` of rows in which gate and up lie side by side (Shazeer 2020).
pub(super) fn gated(activation: Activation, gate_up: &Tensor) -> Result<Tensor> {
    let Gate { value, up, .. } = Gate::of(activation, gate_up)?;
    (value * up)?.to_dtype(gate_up.dtype())
}

/// The derivative to gate and up from that to what [`gated`] gave.
pub(super) fn gated_backward(
    activation: Activation,
    gate_up: &Tensor,
    d: &Tensor,
) -> Result<Tensor> {
    let Gate { value, slope, up } = Gate::of(activation, gate_up)?;
    let d = d.to_dtype(DType::F32)?;
    Tensor::cat(&[((&d * up)? * slope)?, (d * value)?], 1)?.to_dtype(gate_up.dtype())
}

/// What a gate lets through, in f32.
struct Gate {
    value: Tensor,
    slope: Tensor,
    up: Tensor,
}

impl Gate {
    fn of(activation: Activation, gate_up: &Tensor) -> Result<Gate> {
        /// sqrt(2 / pi)
        const ROOT: f64 = 0.797_884_560_802_865_4;
        const CUBIC: f64 = 0.044_715;
        let inner = gate_up.dim(1)? / 2;
        let half = |from: usize| gate_up.narrow(1, from, inner)?.to_dtype(DType::F32);
        let (x, up) = (half(0)?, half(inner)?);
        let (value, slope) = match activation {
            Activation::Silu => {
                let s = candle_nn::ops::sigmoid(&x)?;
                let value = (&x * &s)?;
                // s (1 + x (1 - s))
                let slope = (&s + (&value * (1.0 - &s)?)?)?;
                (value, slope)
            }
            Activation::Gelu => {
                let square = x.sqr()?;
                let inner = (&x * ((&square * CUBIC)? + 1.0)?)?;
                let tanh = (inner * ROOT)?.tanh()?;
                let share = ((&tanh + 1.0)? * 0.5)?;
                let steep = ((square * (3.0 * CUBIC))? + 1.0)?;
                let bend = (((1.0 - tanh.sqr()?)? * steep)? * (0.5 * ROOT))?;
                ((&x * &share)?, (share + (&x * bend)?)?)
            }
        };
        Ok(Gate { value, slope, up })
    }
}
