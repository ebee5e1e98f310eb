//! Vectors and chunks on disk, searched exactly: every vector is compared with the query, so that
//! a comparison of arms holds no approximation noise.
//!
//! Two files. `chunks.jsonl` holds a chunk a line, for people as well, the first of each document
//! with the document's digest. `index.bin` holds, in little-endian, a header of 128 bytes, where
//! each line starts, and the vectors. It is written last and its header vouches for both, so a
//! folder holds a whole index or none.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bench_core::digest;
use bench_core::retrieval::Chunk;
use crc32fast::Hasher;
use fs_err::File;
use memmap2::Mmap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::bm25::best;

const MAGIC: &[u8; 8] = b"bench-ix";
const VERSION: u32 = 2;
const HEADER: usize = 128;

/// Digests of what an index was made from.
#[derive(Clone, Copy, Debug)]
pub struct Made<'a> {
    /// Of everything: equal digests, equal index.
    pub digest: &'a str,
    /// Of everything but the documents: where it is equal, documents that did not change keep
    /// their chunks and vectors.
    pub settings: &'a str,
    /// Of each document by its id; may be empty.
    pub documents: &'a HashMap<&'a str, String>,
}

/// A line of `chunks.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    chunk: &'a Chunk,
    #[serde(skip_serializing_if = "Option::is_none")]
    document_digest: Option<&'a String>,
}

/// An open index: vectors in a memory map, chunks read from their file when they are asked for.
pub struct ExactIndex {
    index: Mmap,
    lines: File,
    dimension: usize,
    n_chunks: usize,
}

/// Why a folder's index cannot be used; the remedy is always to build it again.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The files are not there or cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The files are not a whole index.
    #[error("`{}` is damaged", .0.display())]
    Damaged(PathBuf),
    /// The index is of another layout.
    #[error("`{}` was written by another version of this program", .0.display())]
    Version(PathBuf),
    /// The index is of another corpus, cut or embedder.
    #[error("`{}` was built from another corpus, cut or embedder", .0.display())]
    Other(PathBuf),
}

impl ExactIndex {
    /// Writes an index. `vectors` holds one vector of unit length per chunk, or nothing for a
    /// lexical index. Each file is whole or absent afterwards.
    ///
    /// # Errors
    /// The disk's own.
    ///
    /// # Panics
    /// When vectors differ in length or in number from the chunks, which is a bug of the caller.
    pub fn write(
        folder: &Path,
        made: Made<'_>,
        chunks: &[Chunk],
        vectors: &[Vec<f32>],
    ) -> std::io::Result<()> {
        let dimension = vectors.first().map_or(0, Vec::len);
        assert!(vectors.is_empty() || vectors.len() == chunks.len(), "a vector per chunk");
        assert!(vectors.iter().all(|vector| vector.len() == dimension), "one dimension");
        fs_err::create_dir_all(folder)?;
        let mut starts = vec![0_u64];
        let (mut len, mut lines) = (0, Hasher::new());
        replace(&folder.join("chunks.jsonl"), |file| {
            let mut line = Vec::new();
            for chunk in chunks {
                line.clear();
                let digest = made.documents.get(chunk.document.as_str()).filter(|_| chunk.n == 0);
                serde_json::to_writer(&mut line, &Line { chunk, document_digest: digest })?;
                line.push(b'\n');
                lines.update(&line);
                len += line.len() as u64;
                starts.push(len);
                file.write_all(&line)?;
            }
            Ok(())
        })?;
        if starts.len() % 2 == 1 {
            starts.push(len); // vectors start at a multiple of 16 bytes
        }
        let starts: &[u8] = bytemuck::cast_slice(&starts);
        let rows = || vectors.iter().map(|vector| bytemuck::cast_slice::<f32, u8>(vector));
        let checksum = rows().fold(crc(starts), |sum, row| {
            let mut hasher = Hasher::new_with_initial(sum);
            hasher.update(row);
            hasher.finalize()
        });
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(dimension as u32).to_le_bytes());
        header.extend_from_slice(&(chunks.len() as u64).to_le_bytes());
        header.extend_from_slice(&len.to_le_bytes());
        header.extend_from_slice(&lines.finalize().to_le_bytes());
        header.extend_from_slice(&checksum.to_le_bytes());
        header.extend_from_slice(digest::of_bytes(made.digest.as_bytes()).as_bytes());
        header.extend_from_slice(settings_mark(made.settings).as_bytes());
        header.resize(HEADER - 4, 0);
        header.extend_from_slice(&crc(&header).to_le_bytes());
        replace(&folder.join("index.bin"), |file| {
            file.write_all(&header)?;
            file.write_all(starts)?;
            rows().try_for_each(|row| file.write_all(row))
        })
    }

    /// Opens the index in a folder when it is whole and of this digest. Reads every byte once, to
    /// compare checksums.
    pub fn open(folder: &Path, digest: &str) -> Result<Self, OpenError> {
        Self::open_where(folder, |header| {
            header[40..104] == *digest::of_bytes(digest.as_bytes()).as_bytes()
        })
    }

    /// Opens an index of any corpus that was made with these settings.
    pub fn open_made_with(folder: &Path, settings: &str) -> Result<Self, OpenError> {
        Self::open_where(folder, |header| header[104..124] == *settings_mark(settings).as_bytes())
    }

    fn open_where(folder: &Path, right: impl Fn(&[u8]) -> bool) -> Result<Self, OpenError> {
        let path = folder.join("index.bin");
        let damaged = || OpenError::Damaged(path.clone());
        let index = map(&path)?;
        let lines = File::open(folder.join("chunks.jsonl"))?;
        let header = index.get(..HEADER).ok_or_else(damaged)?;
        let number =
            |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or([0; 4]));
        let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or([0; 8]));
        if &header[..8] != MAGIC || number(HEADER - 4) != crc(&header[..HEADER - 4]) {
            return Err(damaged());
        }
        if number(8) != VERSION {
            return Err(OpenError::Version(path));
        }
        if !right(header) {
            return Err(OpenError::Other(path));
        }
        let (dimension, n_chunks) = (number(12) as usize, long(16) as usize);
        let body = &index[HEADER..];
        let whole = body.len() == starts_len(n_chunks) + n_chunks * dimension * 4
            && lines.metadata()?.len() == long(24)
            && crc_of_file(&lines, long(24))? == number(32)
            && crc(body) == number(36);
        if !whole {
            return Err(damaged());
        }
        Ok(Self { index, lines, dimension, n_chunks })
    }

    /// Bytes of both files.
    pub(crate) fn bytes(&self) -> u64 {
        self.index.len() as u64 + self.lines.metadata().map_or(0, |data| data.len())
    }

    /// How many chunks it holds.
    pub fn n_chunks(&self) -> usize {
        self.n_chunks
    }

    /// Numbers per vector; 0 for a lexical index.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The chunk at a position.
    ///
    /// # Errors
    /// The disk's own, and a file that others changed while it was open.
    ///
    /// # Panics
    /// When the position is not below [`n_chunks`](Self::n_chunks).
    pub fn chunk(&self, position: u32) -> std::io::Result<Chunk> {
        Ok(serde_json::from_slice(&self.line(position)?)?)
    }

    /// The documents it holds: id and digest, with the position of the first chunk and how many
    /// there are.
    ///
    /// # Errors
    /// As [`chunk`](Self::chunk).
    pub fn documents(&self) -> std::io::Result<HashMap<(String, String), (u32, u32)>> {
        #[derive(Deserialize)]
        struct First {
            document: String,
            of: u32,
            document_digest: Option<String>,
        }
        let mut documents = HashMap::new();
        let mut at = 0;
        while (at as usize) < self.n_chunks {
            let First { document, of, document_digest } = serde_json::from_slice(&self.line(at)?)?;
            if let Some(digest) = document_digest {
                documents.insert((document, digest), (at, of));
            }
            at += of.max(1);
        }
        Ok(documents)
    }

    fn line(&self, position: u32) -> std::io::Result<Vec<u8>> {
        let starts: &[u64] = bytemuck::cast_slice(&self.index[HEADER..][..self.n_chunks * 8 + 8]);
        let at = position as usize;
        let mut line = vec![0; (starts[at + 1] - starts[at]) as usize];
        self.lines.file().read_exact_at(&mut line, starts[at])?;
        Ok(line)
    }

    /// The vector at a position; empty for a lexical index.
    ///
    /// # Panics
    /// When the position is not below [`n_chunks`](Self::n_chunks).
    pub fn vector(&self, position: u32) -> &[f32] {
        &self.vectors()[position as usize * self.dimension..][..self.dimension]
    }

    fn vectors(&self) -> &[f32] {
        bytemuck::cast_slice(&self.index[HEADER + starts_len(self.n_chunks)..])
    }

    /// The `top_k` chunks of the largest dot product with the query, best first; ties go to the
    /// earlier chunk.
    ///
    /// # Panics
    /// When the query has another dimension than the index.
    pub fn search(&self, query: &[f32], top_k: usize) -> Vec<(u32, f64)> {
        self.search_in(query, top_k, &|_| true)
    }

    /// As [`search`](Self::search), among the chunks that `keep` accepts.
    ///
    /// # Panics
    /// As [`search`](Self::search).
    pub fn search_in(
        &self,
        query: &[f32],
        top_k: usize,
        keep: &(dyn Fn(u32) -> bool + Sync),
    ) -> Vec<(u32, f64)> {
        /// Rows that one core takes at a time: enough to hide the hand-over, few enough to share.
        const ROWS: usize = 4096;
        assert_eq!(query.len(), self.dimension, "query and index differ in dimension");
        if top_k == 0 {
            return Vec::new();
        }
        let kernel = Kernel::best();
        let search = |(block, rows): (usize, &[f32])| {
            let mut found = Vec::with_capacity(2 * top_k.min(ROWS));
            let mut least = f32::NEG_INFINITY;
            kernel.scan(query, rows, |row, score| {
                // A tie with the worst that was kept loses: it comes later.
                if score <= least {
                    return;
                }
                let at = (block * ROWS + row) as u32;
                if !keep(at) {
                    return;
                }
                found.push((at, f64::from(score)));
                if found.len() >= 2 * top_k {
                    found = best(std::mem::take(&mut found), top_k);
                    least = found.last().map_or(least, |(_, score)| *score as f32);
                }
            });
            found
        };
        let blocks = self.vectors().par_chunks(ROWS * self.dimension).enumerate();
        best(blocks.flat_map_iter(search).collect(), top_k)
    }
}

/// Bytes that chunks take in an index, vectors aside.
pub(crate) fn bytes_of_chunks(chunks: &[Chunk]) -> u64 {
    /// A document's digest, a line's end and its place in the table of starts.
    const BESIDE: u64 = 64;
    struct Counter(u64);
    impl Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(HEADER as u64);
    for chunk in chunks {
        // Counting cannot fail.
        let _ = serde_json::to_writer(&mut counter, chunk);
        counter.0 += BESIDE;
    }
    counter.0
}

/// The first 20 characters of a digest, which is what the header has room for.
fn settings_mark(settings: &str) -> String {
    let mut mark = digest::of_bytes(settings.as_bytes());
    mark.truncate(20);
    mark
}

/// Bytes of the table of line starts, padded to a multiple of 16.
fn starts_len(n_chunks: usize) -> usize {
    (n_chunks + 1).next_multiple_of(2) * 8
}

/// How dot products are computed: the widest registers that the processor has and that help. All
/// kernels add the same numbers in the same order, so that a score is the same on every machine.
#[derive(Clone, Copy)]
enum Kernel {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Kernel {
    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            return Self::Avx2;
        }
        Self::Plain
    }

    /// Calls `visit` with the number of every row and its dot product with the query.
    #[inline]
    #[cfg_attr(
        target_arch = "x86_64",
        expect(unsafe_code, reason = "instructions that not every processor has")
    )]
    fn scan(self, query: &[f32], rows: &[f32], visit: impl FnMut(usize, f32)) {
        match self {
            Self::Plain => scan(query, rows, visit),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this variant is made only where the processor was found to have AVX2.
            Self::Avx2 => unsafe { scan_avx2(query, rows, visit) },
        }
    }
}

fn scan(query: &[f32], rows: &[f32], mut visit: impl FnMut(usize, f32)) {
    for (at, row) in rows.chunks_exact(query.len()).enumerate() {
        visit(at, dot(query, row));
    }
}

/// One row after the other: the memory then delivers as fast as it can, and what is computed fits
/// beside it. Several rows at once are several streams, and took more than twice as long.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn scan_avx2(query: &[f32], rows: &[f32], mut visit: impl FnMut(usize, f32)) {
    for (at, row) in rows.chunks_exact(query.len()).enumerate() {
        visit(at, dot_avx2(query, row));
    }
}

/// Sums side by side: they fill four wide registers, enough to hide how long an addition takes.
const LANES: usize = 32;

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    for half in [16, 8, 4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0] + dot_tail(a_tail, b_tail)
}

/// The same as [`dot`]. Written out, because the compiler adds up the lanes through memory, which
/// takes as long as the rest.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "wide loads")]
fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
    use std::arch::x86_64::{
        _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehl_ps, _mm_shuffle_ps, _mm256_add_ps,
        _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_loadu_ps, _mm256_mul_ps,
        _mm256_setzero_ps,
    };
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [_mm256_setzero_ps(); LANES / 8];
    for (a, b) in a.iter().zip(b) {
        for (n, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `n` is below LANES / 8, so the eight numbers from 8 n on are in the block.
            let (a, b) = unsafe {
                (_mm256_loadu_ps(a.as_ptr().add(8 * n)), _mm256_loadu_ps(b.as_ptr().add(8 * n)))
            };
            *sum = _mm256_add_ps(*sum, _mm256_mul_ps(a, b));
        }
    }
    // Halves are added to halves, as in `dot`: 16 lanes, 8, 4, 2, 1.
    let eight = _mm256_add_ps(_mm256_add_ps(sums[0], sums[2]), _mm256_add_ps(sums[1], sums[3]));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    let one = _mm_add_ss(two, _mm_shuffle_ps::<1>(two, two));
    _mm_cvtss_f32(one) + dot_tail(a_tail, b_tail)
}

#[inline]
fn dot_tail(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Bytes that one core sums up at a time.
const BLOCK: usize = 1 << 22;

/// CRC-32, over all cores where there is much to read.
fn crc(bytes: &[u8]) -> u32 {
    bytes
        .par_chunks(BLOCK)
        .map(hash)
        .reduce(Hasher::new, |left, right| combine(left, &right))
        .finalize()
}

/// The same over a file, without keeping it in memory.
fn crc_of_file(file: &File, len: u64) -> std::io::Result<u32> {
    let block = |at: usize| {
        let start = at as u64 * BLOCK as u64;
        let mut bytes = vec![0; BLOCK.min((len - start) as usize)];
        file.file().read_exact_at(&mut bytes, start)?;
        Ok(hash(&bytes))
    };
    let blocks = (0..len.div_ceil(BLOCK as u64) as usize).into_par_iter();
    let sum: std::io::Result<Hasher> =
        blocks.map(block).try_reduce(Hasher::new, |left, right| Ok(combine(left, &right)));
    Ok(sum?.finalize())
}

fn hash(block: &[u8]) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.update(block);
    hasher
}

fn combine(mut left: Hasher, right: &Hasher) -> Hasher {
    left.combine(right);
    left
}

#[expect(unsafe_code, reason = "a memory map; index files are replaced whole, never changed")]
fn map(path: &Path) -> std::io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: this program writes an index beside the old one and renames it, so the mapped bytes
    // stay as they are for as long as the map lives.
    unsafe { Mmap::map(file.file()) }
}

/// Writes a file under another name, then renames it: readers see the old bytes or the new.
fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let result = (|| {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&new)?);
        write(&mut file)?;
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        fs_err::rename(&new, path)
    })();
    if result.is_err() {
        // The first error is the one to report; what is left behind is overwritten next time.
        let _ = fs_err::remove_file(&new);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(n: usize) -> Vec<Chunk> {
        let chunk = |n: usize| Chunk {
            id: format!("d{n}#0"),
            document: format!("d{n}"),
            title: String::new(),
            text: format!("text \u{2028} {n}\n"),
            of: 1,
            ..Chunk::default()
        };
        (0..n).map(chunk).collect()
    }

    fn vectors(n: usize, dimension: usize) -> Vec<Vec<f32>> {
        let mut state = 88_172_645_463_325_252_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / 16_777_216.0 - 0.5
        };
        (0..n).map(|_| (0..dimension).map(|_| random()).collect()).collect()
    }

    fn write(folder: &Path, digest: &str, chunks: &[Chunk], vectors: &[Vec<f32>]) {
        let made = Made { digest, settings: "settings", documents: &HashMap::new() };
        ExactIndex::write(folder, made, chunks, vectors).unwrap();
    }

    fn index(n: usize, dimension: usize) -> (tempfile::TempDir, ExactIndex) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "digest", &chunks(n), &vectors(n, dimension));
        let index = ExactIndex::open(folder.path(), "digest").unwrap();
        (folder, index)
    }

    #[test]
    fn a_search_equals_the_naive_one_for_any_size() {
        for (n, dimension) in [(1, 3), (2, 16), (9, 17), (5000, 33)] {
            let (_folder, index) = index(n, dimension);
            let (rows, query) = (vectors(n, dimension), &vectors(1, dimension)[0]);
            let naive = |row: &Vec<f32>| row.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
            let mut expect: Vec<(usize, f32)> = rows.iter().map(naive).enumerate().collect();
            expect.sort_by(|a, b| b.1.total_cmp(&a.1));
            let found = index.search(query, 10);
            assert_eq!(found.len(), n.min(10));
            for (found, expect) in found.iter().zip(expect) {
                assert!((found.1 - f64::from(expect.1)).abs() < 1e-4, "{n} x {dimension}");
                assert_eq!(found.0 as usize, expect.0);
            }
            assert_eq!(index.chunk(n as u32 - 1).unwrap(), chunks(n)[n - 1]);
        }
    }

    #[test]
    fn ties_go_to_the_earlier_chunk_across_blocks() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "", &chunks(9000), &vec![vec![0.6, 0.8]; 9000]);
        let found = ExactIndex::open(folder.path(), "").unwrap().search(&[1.0, 0.0], 3);
        assert_eq!(found.iter().map(|hit| hit.0).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn an_index_cut_or_changed_anywhere_is_damaged() {
        for name in ["index.bin", "chunks.jsonl"] {
            let (folder, _index) = index(40, 8);
            let path = folder.path().join(name);
            let whole = fs_err::read(&path).unwrap();
            for step in 0..20 {
                let at = whole.len() * step / 20;
                let mut flipped = whole.clone();
                flipped[at] ^= 1;
                for bytes in [&whole[..at], &flipped] {
                    fs_err::remove_file(&path).unwrap(); // the old one is still mapped
                    fs_err::write(&path, bytes).unwrap();
                    let error = ExactIndex::open(folder.path(), "digest").err();
                    assert!(matches!(error, Some(OpenError::Damaged(_))), "{name} {at}: {error:?}");
                }
            }
        }
    }

    #[test]
    fn all_kernels_give_the_same_numbers() {
        for dimension in [1, 7, 31, 32, 33, 100, 384] {
            let (rows, query) = (vectors(50, dimension).concat(), &vectors(1, dimension)[0]);
            let scores = |kernel: Kernel| {
                let mut scores = Vec::new();
                kernel.scan(query, &rows, |at, score| scores.push((at, score.to_bits())));
                scores
            };
            assert_eq!(scores(Kernel::best()), scores(Kernel::Plain), "{dimension}");
            assert_eq!(scores(Kernel::Plain).len(), 50);
        }
    }

    #[test]
    fn a_search_can_be_kept_to_some_chunks() {
        let (_folder, index) = index(5000, 16);
        let query = &vectors(1, 16)[0];
        let even = index.search_in(query, 10, &|at| at % 2 == 0);
        let all = index.search(query, 5000);
        let expect: Vec<_> = all.into_iter().filter(|hit| hit.0 % 2 == 0).take(10).collect();
        assert_eq!(even, expect);
    }

    #[test]
    fn an_index_knows_its_documents_and_its_version() {
        let folder = tempfile::tempdir().unwrap();
        let documents = HashMap::from([("d0", "one".to_owned()), ("d2", "two".to_owned())]);
        let made = Made { digest: "digest", settings: "settings", documents: &documents };
        ExactIndex::write(folder.path(), made, &chunks(3), &[]).unwrap();
        let index = ExactIndex::open_made_with(folder.path(), "settings").unwrap();
        let found = index.documents().unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[&("d2".to_owned(), "two".to_owned())], (2, 1));
        let other = ExactIndex::open_made_with(folder.path(), "others").err();
        assert!(matches!(other, Some(OpenError::Other(_))));

        let path = folder.path().join("index.bin");
        let mut bytes = fs_err::read(&path).unwrap();
        bytes[8] = 1;
        let sum = crc(&bytes[..HEADER - 4]).to_le_bytes();
        bytes[HEADER - 4..HEADER].copy_from_slice(&sum);
        fs_err::remove_file(&path).unwrap();
        fs_err::write(&path, bytes).unwrap();
        let error = ExactIndex::open(folder.path(), "digest").err().unwrap();
        assert!(error.to_string().ends_with("was written by another version of this program"));
    }

    #[test]
    fn an_index_of_another_corpus_says_so() {
        let (folder, _index) = index(2, 4);
        let error = ExactIndex::open(folder.path(), "other").err().unwrap();
        assert!(error.to_string().ends_with("was built from another corpus, cut or embedder"));
    }

    #[test]
    fn an_open_index_outlives_its_replacement() {
        let (folder, index) = index(3, 4);
        write(folder.path(), "digest", &chunks(1), &vectors(1, 4));
        assert_eq!(index.chunk(2).unwrap().id, "d2#0");
        assert_eq!(ExactIndex::open(folder.path(), "digest").unwrap().n_chunks(), 1);
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 2, "no temporary file stays");
    }
}
