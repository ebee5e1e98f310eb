//! Vectors and chunks on disk, searched exactly: every vector is compared with the query, so that
//! a comparison of arms holds no approximation noise.
//!
//! Two files. `chunks.jsonl` holds a chunk a line, for people as well. `index.bin` holds, in
//! little-endian, a header of 128 bytes, where each line starts, and the vectors. It is written
//! last and its header vouches for both, so a folder holds a whole index or none.

use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bench_core::retrieval::Chunk;
use crc32fast::Hasher;
use fs_err::File;
use memmap2::Mmap;
use rayon::prelude::*;

use crate::bm25::best;

const MAGIC: &[u8; 8] = b"bench-ix";
const VERSION: u32 = 1;
const HEADER: usize = 128;

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
    /// The files are not a whole index of this version.
    #[error("`{}` is damaged or was written by another version", .0.display())]
    Damaged(PathBuf),
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
        digest: &str,
        chunks: &[Chunk],
        vectors: &[Vec<f32>],
    ) -> std::io::Result<()> {
        let dimension = vectors.first().map_or(0, Vec::len);
        assert!(vectors.is_empty() || vectors.len() == chunks.len(), "a vector per chunk");
        assert!(vectors.iter().all(|vector| vector.len() == dimension), "one dimension");
        fs_err::create_dir_all(folder)?;
        let mut lines = Vec::new();
        let mut starts = vec![0_u64];
        for chunk in chunks {
            serde_json::to_writer(&mut lines, chunk)?;
            lines.push(b'\n');
            starts.push(lines.len() as u64);
        }
        if starts.len() % 2 == 1 {
            starts.push(lines.len() as u64); // vectors start at a multiple of 16 bytes
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
        header.extend_from_slice(&(lines.len() as u64).to_le_bytes());
        header.extend_from_slice(&crc(&lines).to_le_bytes());
        header.extend_from_slice(&checksum.to_le_bytes());
        header.extend_from_slice(bench_core::digest::of_bytes(digest.as_bytes()).as_bytes());
        header.resize(HEADER - 4, 0);
        header.extend_from_slice(&crc(&header).to_le_bytes());

        replace(&folder.join("chunks.jsonl"), |file| file.write_all(&lines))?;
        replace(&folder.join("index.bin"), |file| {
            file.write_all(&header)?;
            file.write_all(starts)?;
            rows().try_for_each(|row| file.write_all(row))
        })
    }

    /// Opens the index in a folder when it is whole and of this digest. Reads every byte once, to
    /// compare checksums.
    pub fn open(folder: &Path, digest: &str) -> Result<Self, OpenError> {
        let path = folder.join("index.bin");
        let damaged = || OpenError::Damaged(path.clone());
        let index = map(&path)?;
        let lines = File::open(folder.join("chunks.jsonl"))?;
        let header = index.get(..HEADER).ok_or_else(damaged)?;
        let number =
            |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or([0; 4]));
        let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or([0; 8]));
        let known = &header[..8] == MAGIC && number(8) == VERSION;
        if !known || number(HEADER - 4) != crc(&header[..HEADER - 4]) {
            return Err(damaged());
        }
        if header[40..104] != *bench_core::digest::of_bytes(digest.as_bytes()).as_bytes() {
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
        let starts: &[u64] = bytemuck::cast_slice(&self.index[HEADER..][..self.n_chunks * 8 + 8]);
        let at = position as usize;
        let mut line = vec![0; (starts[at + 1] - starts[at]) as usize];
        self.lines.file().read_exact_at(&mut line, starts[at])?;
        Ok(serde_json::from_slice(&line)?)
    }

    /// The `top_k` chunks of the largest dot product with the query, best first; ties go to the
    /// earlier chunk.
    ///
    /// # Panics
    /// When the query has another dimension than the index.
    pub fn search(&self, query: &[f32], top_k: usize) -> Vec<(u32, f64)> {
        const ROWS: usize = 4096;
        assert_eq!(query.len(), self.dimension, "query and index differ in dimension");
        let vectors: &[f32] =
            bytemuck::cast_slice(&self.index[HEADER + starts_len(self.n_chunks)..]);
        let search = |(block, rows): (usize, &[f32])| {
            let scored = rows
                .chunks_exact(self.dimension)
                .enumerate()
                .map(|(row, vector)| ((block * ROWS + row) as u32, f64::from(dot(query, vector))));
            best(scored.collect(), top_k)
        };
        let blocks = vectors.par_chunks(ROWS * self.dimension).enumerate();
        best(blocks.flat_map_iter(search).collect(), top_k)
    }
}

/// Bytes of the table of line starts, padded to a multiple of 16.
fn starts_len(n_chunks: usize) -> usize {
    (n_chunks + 1).next_multiple_of(2) * 8
}

/// Sixteen sums side by side fill the vector registers of any processor, and the same sixteen
/// everywhere give the same score everywhere.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    let (a_blocks, b_blocks) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + tail
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

    fn index(n: usize, dimension: usize) -> (tempfile::TempDir, ExactIndex) {
        let folder = tempfile::tempdir().unwrap();
        ExactIndex::write(folder.path(), "digest", &chunks(n), &vectors(n, dimension)).unwrap();
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
        ExactIndex::write(folder.path(), "", &chunks(9000), &vec![vec![0.6, 0.8]; 9000]).unwrap();
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
    fn an_index_of_another_corpus_says_so() {
        let (folder, _index) = index(2, 4);
        let error = ExactIndex::open(folder.path(), "other").err().unwrap();
        assert!(error.to_string().ends_with("was built from another corpus, cut or embedder"));
    }

    #[test]
    fn an_open_index_outlives_its_replacement() {
        let (folder, index) = index(3, 4);
        ExactIndex::write(folder.path(), "digest", &chunks(1), &vectors(1, 4)).unwrap();
        assert_eq!(index.chunk(2).unwrap().id, "d2#0");
        assert_eq!(ExactIndex::open(folder.path(), "digest").unwrap().n_chunks(), 1);
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 2, "no temporary file stays");
    }
}
