//! Matrix products in f32 on all cores, for frozen weights read where they lie.
//!
//! The left factor is packed once into tiles of a few rows and then serves several products; the
//! right factor is packed block by block while it is used, so that weights need no second copy in
//! memory. The inner loop keeps a tile of the result in registers (Goto and van de Geijn, "Anatomy
//! of High-Performance Matrix Multiplication", 2008) and is chosen by what the processor offers.
//!
//! Each element of a result is summed in one order whatever the number of threads: the same inputs
//! give the same bits on the same kind of processor.

mod kernel;

use std::cell::RefCell;

use rayon::prelude::*;

use crate::ops::{sum_of, vectorised};

use kernel::{Kernel, MAX_TILE, MAX_WIDTH, Part};

/// Columns a job works on at a time, in panels of the kernel's width.
const PANELS: usize = 4;
/// Longest stretch of the summed dimension that is packed at a time.
const DEPTH: usize = 768;
/// Most parts that share a pass over the result.
const MOST_PARTS: usize = 4;
/// A right factor with contiguous rows is read in place when no more rows than this use it.
const DIRECT_ROWS: usize = 48;

thread_local! {
    static PANEL_BUFFER: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A slice that several threads write to in places that do not meet.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    start: *mut f32,
    len: usize,
}

#[expect(unsafe_code, reason = "whoever writes through it promises that places do not meet")]
unsafe impl Send for Shared {}
#[expect(unsafe_code, reason = "whoever writes through it promises that places do not meet")]
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(slice: &mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// The part from `from` with `len` elements.
    ///
    /// # Safety
    /// The slice that this was made of is alive and not otherwise used, and no other thread holds an
    /// overlapping part.
    #[expect(unsafe_code, reason = "disjoint parts of one buffer for several threads")]
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts do not overlap")]
    pub(crate) unsafe fn part(&self, from: usize, len: usize) -> &mut [f32] {
        assert!(from + len <= self.len, "a part lies within its slice");
        // SAFETY: within bounds by the line above; not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }

    /// Where element `from` lies, with `len` elements from there on within the slice.
    fn place(&self, from: usize, len: usize) -> *mut f32 {
        assert!(from + len <= self.len, "a tile lies within its slice");
        self.start.wrapping_add(from)
    }
}

/// A left factor, packed into tiles of rows: `data[tile][k][row in tile]`. The last tile may have fewer
/// rows than the others; zeros fill what is missing of it.
#[derive(Default)]
pub(crate) struct Lhs {
    kernel: Kernel,
    rows: usize,
    depth: usize,
    tile: usize,
    data: Vec<f32>,
}

impl Lhs {
    /// Packs a row-major matrix of `rows` rows of `depth` elements that lie `stride` apart.
    pub(crate) fn pack(&mut self, source: &[f32], rows: usize, depth: usize, stride: usize) {
        self.shape(rows, depth);
        let (kernel, tile) = (self.kernel, self.tile);
        self.data.par_chunks_mut(tile * depth).enumerate().for_each(|(index, out)| {
            let (size, rows) = (out.len() / depth, rows - index * tile);
            kernel.pack_tile(
                out,
                size,
                rows.min(size),
                depth,
                stride,
                &source[index * tile * stride..],
            );
        });
    }

    /// Packs rows that lie anywhere, on this thread.
    pub(crate) fn pack_rows<'a>(
        &mut self,
        rows: usize,
        depth: usize,
        row: impl Fn(usize) -> &'a [f32],
    ) {
        self.shape(rows, depth);
        let tile = self.tile;
        for (index, out) in self.data.chunks_mut(tile * depth).enumerate() {
            let size = out.len() / depth;
            pack_tile(out, size, depth, rows - index * tile, |i| row(index * tile + i));
        }
    }

    /// Packs the transpose of a row-major matrix: `source` has `depth` rows of `rows` elements.
    pub(crate) fn pack_transposed(
        &mut self,
        source: &[f32],
        rows: usize,
        depth: usize,
        stride: usize,
    ) {
        self.shape(rows, depth);
        let tile = self.tile;
        for (index, out) in self.data.chunks_mut(tile * depth).enumerate() {
            let n = tile.min(rows - index * tile);
            let size = out.len() / depth;
            for (k, out) in out.chunks_exact_mut(size).enumerate() {
                out[..n].copy_from_slice(&source[k * stride + index * tile..][..n]);
                out[n..].fill(0.0);
            }
        }
    }

    fn shape(&mut self, rows: usize, depth: usize) {
        (self.rows, self.depth) = (rows, depth);
        self.tile = self.kernel.tile();
        let last = match rows % self.tile {
            0 => 0,
            rest => self.kernel.last_tile(rest),
        };
        self.data.resize((rows / self.tile * self.tile + last) * depth, 0.0);
    }

    /// The packed elements `from..from + depth` of a tile, and how many rows they are of.
    fn tile(&self, index: usize, from: usize, depth: usize) -> (&[f32], usize) {
        let start = index * self.tile * self.depth;
        let size = self.tile.min((self.data.len() - start) / self.depth);
        (&self.data[start + from * size..][..depth * size], size)
    }
}

fn pack_tile<'a>(
    out: &mut [f32],
    tile: usize,
    depth: usize,
    rows: usize,
    row: impl Fn(usize) -> &'a [f32],
) {
    const STRIPE: usize = 16;
    if rows < tile {
        out.fill(0.0);
    }
    // Stripe by stripe, so that the lines written to stay in the first cache.
    for from in (0..depth).step_by(STRIPE) {
        let to = (from + STRIPE).min(depth);
        for i in 0..tile.min(rows) {
            for (k, value) in row(i)[from..to].iter().enumerate() {
                out[(from + k) * tile + i] = *value;
            }
        }
    }
}

/// A right factor of `depth` rows and `columns` columns.
#[derive(Clone, Copy)]
pub(crate) enum Rhs<'a> {
    /// Element (k, n) is `data[k * stride + n]`.
    Rows { data: &'a [f32], stride: usize },
    /// Element (k, n) is `data[n * stride + k]`: the layout of a linear layer's weight.
    Columns { data: &'a [f32], stride: usize },
}

/// One summand of a product: `lhs[.., from..from + depth] · rhs`.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    pub(crate) lhs: &'a Lhs,
    pub(crate) from: usize,
    pub(crate) depth: usize,
    pub(crate) rhs: Rhs<'a>,
}

impl<'a> Term<'a> {
    /// The whole of `lhs` times `rhs`.
    pub(crate) fn whole(lhs: &'a Lhs, rhs: Rhs<'a>) -> Self {
        Self { lhs, from: 0, depth: lhs.depth, rhs }
    }
}

/// What a product does with what is already in its place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    /// Replaces it.
    Set,
    /// Adds to it.
    Add,
}

/// `out[row * stride + column]` becomes (or gains) the sum of the terms, on all cores.
pub(crate) fn product(
    terms: &[Term<'_>],
    out: &mut [f32],
    columns: usize,
    stride: usize,
    into: Into,
) {
    let kernel = terms[0].lhs.kernel;
    let rows = terms[0].lhs.rows;
    check(terms, out.len(), columns, stride);
    if rows == 1 && terms.iter().all(|term| matches!(term.rhs, Rhs::Columns { .. })) {
        return row_product(terms, &mut out[..columns], into);
    }
    let tiles = rows.div_ceil(terms[0].lhs.tile);
    let panels = columns.div_ceil(kernel.width());
    let threads = rayon::current_num_threads();
    let column_jobs = panels.div_ceil(PANELS).next_multiple_of(threads).min(panels);
    let row_jobs = (2 * threads).div_ceil(column_jobs).min(tiles);
    let out = Shared::new(out);
    (0..column_jobs * row_jobs).into_par_iter().with_max_len(1).for_each(|job| {
        let (column, row) = (job % column_jobs, job / column_jobs);
        let part = |index: usize, of: usize, all: usize| all * index / of;
        run(
            kernel,
            terms,
            part(row, row_jobs, tiles)..part(row + 1, row_jobs, tiles),
            part(column, column_jobs, panels)..part(column + 1, column_jobs, panels),
            out,
            columns,
            stride,
            into,
        );
    });
}

/// [`product`] of one row, for writing token by token: each weight is read once, where it lies.
fn row_product(terms: &[Term<'_>], out: &mut [f32], into: Into) {
    /// Numbers of weights that are worth a job.
    const JOB: usize = 1 << 15;
    let rows: Vec<Vec<f32>> = terms
        .iter()
        .map(|term| {
            let (tile, size) = term.lhs.tile(0, term.from, term.depth);
            tile.iter().step_by(size).copied().collect()
        })
        .collect();
    let depth: usize = terms.iter().map(|term| term.depth).sum();
    let columns = (JOB / depth).max(1);
    out.par_chunks_mut(columns).enumerate().for_each(|(job, out)| {
        for (i, out) in out.iter_mut().enumerate() {
            let column = job * columns + i;
            let mut sum = if into == Into::Add { *out } else { 0.0 };
            for (term, row) in terms.iter().zip(&rows) {
                if let Rhs::Columns { data, stride } = term.rhs {
                    let weights = &data[column * stride..][..term.depth];
                    sum += vectorised(
                        #[inline(always)]
                        || sum_of(row, weights, |a, b| a * b),
                    );
                }
            }
            *out = sum;
        }
    });
}

/// The same as [`product`], on this thread.
pub(crate) fn product_here(
    terms: &[Term<'_>],
    out: &mut [f32],
    columns: usize,
    stride: usize,
    into: Into,
) {
    let kernel = terms[0].lhs.kernel;
    check(terms, out.len(), columns, stride);
    let tiles = terms[0].lhs.rows.div_ceil(terms[0].lhs.tile);
    let panels = columns.div_ceil(kernel.width());
    let out = Shared::new(out);
    for from in (0..panels).step_by(PANELS) {
        let to = (from + PANELS).min(panels);
        run(kernel, terms, 0..tiles, from..to, out, columns, stride, into);
    }
}

/// The kernel reads and writes through pointers: all bounds are checked here.
fn check(terms: &[Term<'_>], len: usize, columns: usize, stride: usize) {
    let rows = terms[0].lhs.rows;
    assert!(columns <= stride && (rows == 0 || (rows - 1) * stride + columns <= len));
    for term in terms {
        assert!(term.lhs.rows == rows && term.lhs.kernel == terms[0].lhs.kernel);
        assert!(term.from + term.depth <= term.lhs.depth && term.depth > 0);
        let (len, needed) = match term.rhs {
            Rhs::Rows { data, stride } => (data.len(), (term.depth - 1) * stride + columns),
            Rhs::Columns { data, stride } => (data.len(), (columns - 1) * stride + term.depth),
        };
        assert!(needed <= len, "the right factor has all its elements");
    }
}

/// Parts of the summed dimension that fit into the second cache as panels: ranges of terms, each cut
/// where it is too long. What is left of one term shares a pass over the result with the next, so that
/// an adapter beside a weight costs no pass of its own.
fn passes<'a>(terms: &[Term<'a>]) -> Vec<Vec<Term<'a>>> {
    let mut passes: Vec<Vec<Term<'a>>> = Vec::new();
    let mut room = 0;
    for term in terms {
        let block = term.depth.div_ceil(term.depth.div_ceil(DEPTH));
        for k in (0..term.depth).step_by(block) {
            let depth = block.min(term.depth - k);
            let rhs = match term.rhs {
                Rhs::Rows { data, stride } => Rhs::Rows { data: &data[k * stride..], stride },
                Rhs::Columns { data, stride } => Rhs::Columns { data: &data[k..], stride },
            };
            let part = Term { lhs: term.lhs, from: term.from + k, depth, rhs };
            match passes.last_mut() {
                Some(last) if depth <= room && last.len() < MOST_PARTS => {
                    last.push(part);
                    room -= depth;
                }
                _ => {
                    passes.push(vec![part]);
                    room = (DEPTH + DEPTH / 4).saturating_sub(depth);
                }
            }
        }
    }
    passes
}

#[expect(clippy::too_many_arguments, reason = "one block of the loop nest")]
#[expect(unsafe_code, reason = "the kernels read packed panels and write tiles by pointer")]
fn run(
    kernel: Kernel,
    terms: &[Term<'_>],
    tiles: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
    out: Shared,
    columns: usize,
    stride: usize,
    into: Into,
) {
    let width = kernel.width();
    let (rows, tile) = (terms[0].lhs.rows, terms[0].lhs.tile);
    let whole_panels = panels.end * width <= columns;
    PANEL_BUFFER.with_borrow_mut(|buffer| {
        let mut add = into == Into::Add;
        for pass in passes(terms) {
            let depth: usize = pass.iter().map(|term| term.depth).sum();
            let direct = |term: &Term<'_>| {
                matches!(term.rhs, Rhs::Rows { .. }) && rows <= DIRECT_ROWS && whole_panels
            };
            if buffer.len() < panels.len() * width * depth {
                buffer.resize(panels.len() * width * depth, 0.0);
            }
            for (panel, out) in panels.clone().zip(buffer.chunks_exact_mut(width * depth)) {
                let n = width.min(columns - panel * width);
                let mut out = out;
                for term in &pass {
                    let (here, rest) = out.split_at_mut(width * term.depth);
                    out = rest;
                    if !direct(term) {
                        kernel.pack_panel(term.rhs, 0, term.depth, panel * width, n, here);
                    }
                }
            }
            for index in tiles.clone() {
                let n_rows = tile.min(rows - index * tile);
                for (i, panel) in panels.clone().enumerate() {
                    let packed = &buffer[i * width * depth..][..width * depth];
                    let none = Part { depth: 0, lhs: &[], rhs: &[], stride: 0 };
                    let mut parts = [none; MOST_PARTS];
                    let (mut from, mut size) = (0, tile);
                    for (part, term) in parts.iter_mut().zip(&pass) {
                        let (lhs, rows) = term.lhs.tile(index, term.from, term.depth);
                        let (rhs, stride) = match term.rhs {
                            Rhs::Rows { data, stride } if direct(term) => {
                                (&data[panel * width..], stride)
                            }
                            _ => (&packed[from * width..], width),
                        };
                        *part = Part { depth: term.depth, lhs, rhs, stride };
                        from += term.depth;
                        size = rows;
                    }
                    let parts = &parts[..pass.len()];
                    let n = width.min(columns - panel * width);
                    let start = index * tile * stride + panel * width;
                    if n_rows == size && n == width {
                        let out = out.place(start, (size - 1) * stride + width);
                        // SAFETY: the tile lies within `out`, and no other job writes to these rows of
                        // these columns.
                        unsafe { kernel.tile_product(size, width, parts, out, stride, add) };
                        continue;
                    }
                    let mut edge = [0.0; MAX_TILE * MAX_WIDTH];
                    // SAFETY: `edge` holds the largest tile, and rows of `out` as above.
                    unsafe {
                        kernel.tile_product(size, n, parts, edge.as_mut_ptr(), width, false);
                    }
                    for row in 0..n_rows {
                        // SAFETY: as above; one row of this job's columns.
                        let out = unsafe { out.part(start + row * stride, n) };
                        let edge = &edge[row * width..][..n];
                        if add {
                            out.iter_mut().zip(edge).for_each(|(out, value)| *out += value);
                        } else {
                            out.copy_from_slice(edge);
                        }
                    }
                }
            }
            add = true;
        }
    });
}

#[cfg(test)]
mod tests;
