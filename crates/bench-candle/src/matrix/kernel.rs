//! The innermost loops, for the instructions that the processor has.

use super::Rhs;

/// Most rows of a tile, over all kernels.
pub(super) const MAX_TILE: usize = 12;
/// Most columns of a panel, over all kernels.
pub(super) const MAX_WIDTH: usize = 32;

/// A stretch of the summed dimension: a packed tile of the left factor beside a panel of the right.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) depth: usize,
    pub(super) lhs: &'a [f32],
    pub(super) rhs: &'a [f32],
    /// From one row of `rhs` to the next.
    pub(super) stride: usize,
}

/// Which instructions the inner loops are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// 32 columns, up to 12 rows.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 16 columns, up to 6 rows.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 8 columns, 4 rows, in plain Rust.
    Portable,
}

impl Default for Kernel {
    fn default() -> Self {
        Self::available()[0]
    }
}

impl Kernel {
    /// All that this processor runs, the fastest first.
    pub(super) fn available() -> Vec<Self> {
        let mut kernels = Vec::with_capacity(3);
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                kernels.push(Self::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                kernels.push(Self::Avx2);
            }
        }
        kernels.push(Self::Portable);
        kernels
    }

    /// Columns of a panel.
    pub(super) fn width(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 32,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 16,
            Self::Portable => 8,
        }
    }

    /// Rows of each whole tile of a left factor.
    pub(super) fn tile(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 12,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 6,
            Self::Portable => 4,
        }
    }

    /// Rows of the last tile, which has `rows` rows to hold.
    pub(super) fn last_tile(self, rows: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => rows.next_multiple_of(4),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 if rows > 4 => 6,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 4,
            Self::Portable => 4,
        }
    }

    /// Packs `rows` rows of `depth` elements that lie `stride` apart into one tile: `out[k][row]`,
    /// padded with zeros to `tile` rows.
    pub(super) fn pack_tile(
        self,
        out: &mut [f32],
        tile: usize,
        rows: usize,
        depth: usize,
        stride: usize,
        source: &[f32],
    ) {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Avx512 && rows == 12 && tile == 12 {
            // SAFETY: this kernel is only chosen where the processor has AVX-512.
            #[expect(unsafe_code, reason = "calls code for a checked instruction set")]
            unsafe {
                x86::transpose_tile(source, stride, depth, out);
            }
            return;
        }
        super::pack_tile(out, tile, depth, rows, |row| &source[row * stride..][..depth]);
    }

    /// Packs `columns` columns from `first` on of `depth` rows from `k` on: `out[row][column]`,
    /// padded with zeros to the panel's width.
    pub(super) fn pack_panel(
        self,
        rhs: Rhs<'_>,
        k: usize,
        depth: usize,
        first: usize,
        columns: usize,
        out: &mut [f32],
    ) {
        let width = self.width();
        match rhs {
            Rhs::Rows { data, stride } => {
                #[cfg(target_arch = "x86_64")]
                if self == Self::Avx512 && columns == width {
                    // SAFETY: this kernel is only chosen where the processor has AVX-512.
                    #[expect(unsafe_code, reason = "calls code for a checked instruction set")]
                    unsafe {
                        x86::copy_panel(&data[k * stride + first..], stride, depth, out);
                    }
                    return;
                }
                for (i, out) in out.chunks_exact_mut(width).take(depth).enumerate() {
                    out[..columns].copy_from_slice(&data[(k + i) * stride + first..][..columns]);
                    out[columns..].fill(0.0);
                }
            }
            Rhs::Columns { data, stride } => {
                let data = &data[first * stride + k..];
                #[cfg(target_arch = "x86_64")]
                if self == Self::Avx512 && columns == width {
                    // SAFETY: this kernel is only chosen where the processor has AVX-512.
                    #[expect(unsafe_code, reason = "calls code for a checked instruction set")]
                    unsafe {
                        x86::transpose_panel(data, stride, depth, out);
                    }
                    return;
                }
                if columns < width {
                    out.fill(0.0);
                }
                for n in 0..columns {
                    for (i, value) in data[n * stride..][..depth].iter().enumerate() {
                        out[i * width + n] = *value;
                    }
                }
            }
        }
    }

    /// `out[row][column] = (add ? out : 0) + sum over parts and k of lhs[k][row] * rhs[k][column]`, for
    /// `tile` rows and the vectors that hold the first `columns` columns.
    ///
    /// # Safety
    /// `out` is writable for `tile` rows, `stride` apart, of as many columns as `columns` rounded up
    /// to half a panel.
    #[expect(unsafe_code, reason = "writes a tile of a matrix by pointer")]
    #[inline]
    pub(super) unsafe fn tile_product(
        self,
        tile: usize,
        columns: usize,
        parts: &[Part<'_>],
        out: *mut f32,
        stride: usize,
        add: bool,
    ) {
        for part in parts {
            assert!(part.lhs.len() >= part.depth * tile && part.depth > 0);
            assert!(part.rhs.len() >= (part.depth - 1) * part.stride + columns);
        }
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                let kernel = match (tile, columns > 16) {
                    (12, true) => x86::avx512::<12, 2>,
                    (12, false) => x86::avx512::<12, 1>,
                    (8, true) => x86::avx512::<8, 2>,
                    (8, false) => x86::avx512::<8, 1>,
                    (_, true) => x86::avx512::<4, 2>,
                    (_, false) => x86::avx512::<4, 1>,
                };
                // SAFETY: the bounds are the assertions above and the caller's promise.
                unsafe { kernel(parts, out, stride, add) }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                let kernel = match (tile, columns > 8) {
                    (6, true) => x86::avx2::<6, 2>,
                    (6, false) => x86::avx2::<6, 1>,
                    (_, true) => x86::avx2::<4, 2>,
                    (_, false) => x86::avx2::<4, 1>,
                };
                // SAFETY: as above.
                unsafe { kernel(parts, out, stride, add) }
            }
            Self::Portable => {
                let mut sums = [[0.0f32; 8]; 4];
                for part in parts {
                    let rows = part.lhs.chunks_exact(4).zip(part.rhs.chunks(part.stride));
                    for (a, b) in rows.take(part.depth) {
                        for (sums, a) in sums.iter_mut().zip(a) {
                            for (sum, b) in sums.iter_mut().zip(b) {
                                *sum += a * b;
                            }
                        }
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    for (column, sum) in sums.iter().enumerate() {
                        // SAFETY: the caller's promise.
                        unsafe {
                            let out = out.add(row * stride + column);
                            *out = if add { *out + sum } else { *sum };
                        }
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "processor instructions on raw memory")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_fmadd_ps,
        _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_add_ps,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps,
        _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };
    use std::mem::transmute;

    use super::Part;

    macro_rules! kernel {
        ($name:ident, $features:literal, $vector:ty, $lanes:literal, $zero:ident, $load:ident, $splat:ident, $multiply_add:ident, $add:ident, $store:ident) => {
            /// A tile of `R` rows and `V` vectors.
            ///
            /// # Safety
            /// The processor has the features; of each part, the left factor is readable for
            /// `depth * R` elements and the right one for `depth` rows of `V` vectors; `c` is writable
            /// for `R` rows of `V` vectors.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name<const R: usize, const V: usize>(
                parts: &[Part<'_>],
                c: *mut f32,
                c_stride: usize,
                add: bool,
            ) {
                // The tile's lines arrive while the sums are made.
                for row in 0..R {
                    for v in 0..V {
                        _mm_prefetch::<_MM_HINT_ET0>(
                            c.wrapping_add(row * c_stride + v * $lanes).cast(),
                        );
                    }
                }
                let mut sums: [[$vector; V]; R] = [[$zero(); V]; R];
                for part in parts {
                    let (mut a, mut b) = (part.lhs.as_ptr(), part.rhs.as_ptr());
                    for _ in 0..part.depth {
                        // SAFETY: within the memory that the caller promises.
                        unsafe {
                            let columns: [$vector; V] =
                                std::array::from_fn(|v| $load(b.add(v * $lanes)));
                            for (row, sums) in sums.iter_mut().enumerate() {
                                let value = $splat(*a.add(row));
                                for (sum, column) in sums.iter_mut().zip(columns) {
                                    *sum = $multiply_add(value, column, *sum);
                                }
                            }
                            a = a.add(R);
                            b = b.wrapping_add(part.stride);
                        }
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    for (v, sum) in sums.iter().enumerate() {
                        // SAFETY: as above.
                        unsafe {
                            let c = c.add(row * c_stride + v * $lanes);
                            $store(c, if add { $add($load(c), *sum) } else { *sum });
                        }
                    }
                }
            }
        };
    }

    kernel!(
        avx512,
        "avx512f",
        __m512,
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        _mm512_storeu_ps
    );
    kernel!(
        avx2,
        "avx2,fma",
        __m256,
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        _mm256_storeu_ps
    );

    /// Packs 32 rows of `depth` elements as `out[k][row]`, in squares of 16.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose_panel(
        data: &[f32],
        stride: usize,
        depth: usize,
        out: &mut [f32],
    ) {
        assert!(data.len() >= 31 * stride + depth && out.len() >= depth * 32);
        let whole = depth / 16 * 16;
        for half in [0, 16] {
            for k in (0..whole).step_by(16) {
                // SAFETY: within the bounds asserted above.
                unsafe {
                    let rows = std::array::from_fn(|i| {
                        _mm512_loadu_ps(data.as_ptr().add((half + i) * stride + k))
                    });
                    for (i, column) in transpose(&rows).into_iter().enumerate() {
                        _mm512_storeu_ps(out.as_mut_ptr().add((k + i) * 32 + half), column);
                    }
                }
            }
            for k in whole..depth {
                for i in half..half + 16 {
                    out[k * 32 + i] = data[i * stride + k];
                }
            }
        }
    }

    /// Packs 32 columns of `depth` rows as `out[row][column]`.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn copy_panel(data: &[f32], stride: usize, depth: usize, out: &mut [f32]) {
        assert!(data.len() >= (depth - 1) * stride + 32 && out.len() >= depth * 32);
        for row in 0..depth {
            // SAFETY: within the bounds asserted above.
            unsafe {
                let (from, to) = (data.as_ptr().add(row * stride), out.as_mut_ptr().add(row * 32));
                // The next rows lie too far apart for the processor to foresee.
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(8 * stride).cast());
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(8 * stride + 16).cast());
                _mm512_storeu_ps(to, _mm512_loadu_ps(from));
                _mm512_storeu_ps(to.add(16), _mm512_loadu_ps(from.add(16)));
            }
        }
    }

    /// Packs 12 rows of `depth` elements as `out[k][row]`, in squares of 16 of which four rows are
    /// empty and overwritten by what follows.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose_tile(
        data: &[f32],
        stride: usize,
        depth: usize,
        out: &mut [f32],
    ) {
        assert!(data.len() >= 11 * stride + depth && out.len() >= depth * 12);
        let whole = depth / 16 * 16;
        for k in (0..whole).step_by(16) {
            // SAFETY: within the bounds asserted above; the mask keeps the last row within its tile.
            unsafe {
                let rows = std::array::from_fn(|i| {
                    if i < 12 {
                        _mm512_loadu_ps(data.as_ptr().add(i * stride + k))
                    } else {
                        _mm512_setzero_ps()
                    }
                });
                let columns = transpose(&rows);
                for (i, column) in columns.iter().enumerate().take(15) {
                    _mm512_storeu_ps(out.as_mut_ptr().add((k + i) * 12), *column);
                }
                _mm512_mask_storeu_ps(out.as_mut_ptr().add((k + 15) * 12), 0xfff, columns[15]);
            }
        }
        for k in whole..depth {
            for i in 0..12 {
                out[k * 12 + i] = data[i * stride + k];
            }
        }
    }

    /// Transposes a square of 16: pairs, then quads within lanes of four, then the lanes.
    #[target_feature(enable = "avx512f")]
    fn transpose(r: &[__m512; 16]) -> [__m512; 16] {
        let mut t = [_mm512_setzero_ps(); 16];
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let mut u = [_mm512_setzero_ps(); 16];
        for i in 0..4 {
            // SAFETY: vectors of the same size, any bits allowed.
            let d = |v: __m512| unsafe { transmute::<__m512, std::arch::x86_64::__m512d>(v) };
            // SAFETY: as above.
            let s = |v: std::arch::x86_64::__m512d| unsafe {
                transmute::<std::arch::x86_64::__m512d, __m512>(v)
            };
            let [a, b, c, e] = [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]].map(d);
            u[4 * i] = s(_mm512_unpacklo_pd(a, c));
            u[4 * i + 1] = s(_mm512_unpackhi_pd(a, c));
            u[4 * i + 2] = s(_mm512_unpacklo_pd(b, e));
            u[4 * i + 3] = s(_mm512_unpackhi_pd(b, e));
        }
        // u[4 i + j], lane l: rows 4 i .. 4 i + 3 of column 4 l + j.
        let mut out = [_mm512_setzero_ps(); 16];
        for j in 0..4 {
            let low = _mm512_shuffle_f32x4::<0x88>(u[j], u[4 + j]);
            let high = _mm512_shuffle_f32x4::<0xdd>(u[j], u[4 + j]);
            let low2 = _mm512_shuffle_f32x4::<0x88>(u[8 + j], u[12 + j]);
            let high2 = _mm512_shuffle_f32x4::<0xdd>(u[8 + j], u[12 + j]);
            out[j] = _mm512_shuffle_f32x4::<0x88>(low, low2);
            out[8 + j] = _mm512_shuffle_f32x4::<0xdd>(low, low2);
            out[4 + j] = _mm512_shuffle_f32x4::<0x88>(high, high2);
            out[12 + j] = _mm512_shuffle_f32x4::<0xdd>(high, high2);
        }
        out
    }
}
