//! Embeddings on disk, by content: what was embedded once is never embedded again.
//!
//! One append-only file per embedder. After a header come records of one size: key, token count,
//! vector, checksum. A record that a killed process left unfinished fails its checksum and is cut
//! off; what came before it stays.

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bench_core::backend::{BackendError, Embedder, Purpose};
use bench_core::digest;
use fs_err::File;

use crate::fatal;

type Load = dyn Fn() -> Result<Arc<dyn Embedder>, BackendError> + Send + Sync;
type Key = [u8; 32];

const MAGIC: &[u8; 12] = b"bench-em\x01\0\0\0";
const HEADER: usize = 12 + 4 + 64;

/// An embedder that remembers. The embedder behind it is loaded when a text is new to the cache,
/// and not before.
pub struct CachedEmbedder {
    id: String,
    dimension: usize,
    window: usize,
    load: Box<Load>,
    inner: OnceLock<Arc<dyn Embedder>>,
    path: PathBuf,
    store: Mutex<Option<Store>>,
}

impl CachedEmbedder {
    /// Remembers for a loaded embedder, in a file of its own in `folder`.
    pub fn new(inner: Arc<dyn Embedder>, folder: &Path) -> Self {
        let (id, dimension, window) = (inner.id().to_owned(), inner.dimension(), inner.window());
        let load = move || Ok(Arc::clone(&inner));
        Self::lazy(&id, dimension, window, folder, Box::new(load))
    }

    /// Remembers for an embedder that may not be needed: `load` is called when a text is new. What
    /// it gives must have the id and dimension given here.
    pub fn lazy(id: &str, dimension: usize, window: usize, folder: &Path, load: Box<Load>) -> Self {
        let name = format!("{}.embeddings", digest::short(&digest::of_bytes(id.as_bytes())));
        Self {
            id: id.to_owned(),
            dimension,
            window,
            load,
            inner: OnceLock::new(),
            path: folder.join(name),
            store: Mutex::new(None),
        }
    }

    fn inner(&self) -> Result<&Arc<dyn Embedder>, BackendError> {
        if let Some(inner) = self.inner.get() {
            return Ok(inner);
        }
        let inner = (self.load)()?;
        if inner.id() != self.id || inner.dimension() != self.dimension {
            return Err(fatal(format!(
                "the cache is for embedder `{}` ({} numbers), but `{}` ({} numbers) was loaded",
                self.id,
                self.dimension,
                inner.id(),
                inner.dimension()
            )));
        }
        Ok(self.inner.get_or_init(|| inner))
    }

    /// Runs `work` on the opened store.
    fn with<T>(
        &self,
        work: impl FnOnce(&mut Store) -> std::io::Result<T>,
    ) -> Result<T, BackendError> {
        let mut store: MutexGuard<'_, Option<Store>> =
            self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = match &mut *store {
            Some(store) => store,
            none => none.insert(Store::open(&self.path, &self.id, self.dimension).map_err(fatal)?),
        };
        work(opened).map_err(fatal)
    }
}

impl Embedder for CachedEmbedder {
    fn id(&self) -> &str {
        &self.id
    }

    fn dimension(&self) -> usize {
        self.dimension
    }

    fn window(&self) -> usize {
        self.window
    }

    /// A remembered text's count is remembered too. Where the embedder cannot be loaded the count
    /// is the text's bytes, which no tokenizer exceeds; the next new text then says why.
    fn count_tokens(&self, text: &str) -> usize {
        let keys = [Purpose::Passage, Purpose::Query].map(|purpose| key(purpose, text));
        let known = self.with(|store| keys.iter().find_map(|k| store.tokens(k)).transpose());
        match known {
            Ok(Some(tokens)) => tokens,
            Ok(None) | Err(_) => self.inner().map_or(text.len(), |inner| inner.count_tokens(text)),
        }
    }

    fn embed(&self, purpose: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
        let keys: Vec<Key> = texts.iter().map(|text| key(purpose, text)).collect();
        let mut missing: Vec<(Key, String)> = Vec::new();
        self.with(|store| {
            for (key, text) in keys.iter().zip(texts) {
                let twice = || missing.iter().any(|(other, _)| other == key);
                if !store.positions.contains_key(key) && !twice() {
                    missing.push((*key, text.clone()));
                }
            }
            Ok(())
        })?;
        if !missing.is_empty() {
            let inner = self.inner()?;
            let (new, texts): (Vec<Key>, Vec<String>) = missing.into_iter().unzip();
            let vectors = inner.embed(purpose, &texts)?;
            if vectors.len() != texts.len() || vectors.iter().any(|v| v.len() != self.dimension) {
                let message =
                    format!("embedder `{}` gave vectors of another number or size", self.id);
                return Err(fatal(message));
            }
            let counts: Vec<usize> = texts.iter().map(|text| inner.count_tokens(text)).collect();
            self.with(|store| store.append(&new, &counts, &vectors))?;
        }
        self.with(|store| keys.iter().map(|key| store.vector(key)).collect())
    }
}

/// The first 128 bits of a SHA-256 in hexadecimal.
fn key(purpose: Purpose, text: &str) -> Key {
    let prefix = match purpose {
        Purpose::Query => "query\0",
        Purpose::Passage => "passage\0",
    };
    let mut key = [0; 32];
    key.copy_from_slice(&digest::of_bytes(format!("{prefix}{text}").as_bytes()).as_bytes()[..32]);
    key
}

struct Store {
    file: File,
    dimension: usize,
    /// Where each key's record is, counted in records.
    positions: HashMap<Key, u64>,
    n_records: u64,
}

impl Store {
    fn open(path: &Path, id: &str, dimension: usize) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder)?;
        }
        let options = || {
            let mut options = fs_err::OpenOptions::new();
            options.read(true).append(true).create(true);
            options
        };
        let mut store = Self {
            file: options().open(path)?,
            dimension,
            positions: HashMap::new(),
            n_records: 0,
        };
        store.file.file().lock()?;
        let header = store.header(id);
        let mut found = vec![0; HEADER];
        let whole = store.file.file().read_exact_at(&mut found, 0).is_ok() && found == header;
        let result = if whole {
            store.read_new()
        } else {
            // Empty, half a header, or another version: nothing in it can be used.
            store.file.set_len(0).and_then(|()| store.file.write_all(&header))
        };
        store.file.file().unlock()?;
        result.map(|()| store)
    }

    fn header(&self, id: &str) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&(self.dimension as u32).to_le_bytes());
        header.extend_from_slice(digest::of_bytes(id.as_bytes()).as_bytes());
        header
    }

    fn record_len(&self) -> usize {
        size_of::<Key>() + 4 + self.dimension * 4 + 4
    }

    fn offset(&self, position: u64) -> u64 {
        HEADER as u64 + position * self.record_len() as u64
    }

    /// Reads what was appended since, by this process or another, up to the first record that is
    /// not whole, and cuts the file there. The caller holds the lock.
    fn read_new(&mut self) -> std::io::Result<()> {
        let mut file = BufReader::with_capacity(1 << 20, File::open(self.file.path())?);
        let start = self.offset(self.n_records);
        file.seek_relative(start as i64)?;
        let mut record = vec![0; self.record_len()];
        while file.read_exact(&mut record).is_ok() {
            let (body, checksum) = record.split_at(record.len() - 4);
            if crc32fast::hash(body).to_le_bytes() != checksum {
                break;
            }
            let mut key = [0; 32];
            key.copy_from_slice(&body[..32]);
            self.positions.insert(key, self.n_records);
            self.n_records += 1;
        }
        let end = self.offset(self.n_records);
        if self.file.metadata()?.len() != end {
            self.file.set_len(end)?;
        }
        Ok(())
    }

    fn append(
        &mut self,
        keys: &[Key],
        counts: &[usize],
        vectors: &[Vec<f32>],
    ) -> std::io::Result<()> {
        let mut records = Vec::with_capacity(keys.len() * self.record_len());
        for ((key, count), vector) in keys.iter().zip(counts).zip(vectors) {
            let start = records.len();
            records.extend_from_slice(key);
            records.extend_from_slice(&u32::try_from(*count).unwrap_or(u32::MAX).to_le_bytes());
            records.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
            records.extend_from_slice(&crc32fast::hash(&records[start..]).to_le_bytes());
        }
        self.file.file().lock()?;
        let result = self
            .read_new()
            .and_then(|()| self.file.write_all(&records))
            .and_then(|()| self.read_new());
        self.file.file().unlock()?;
        result
    }

    fn tokens(&self, key: &Key) -> Option<std::io::Result<usize>> {
        let offset = self.offset(*self.positions.get(key)?) + size_of::<Key>() as u64;
        let mut count = [0; 4];
        let read = self.file.file().read_exact_at(&mut count, offset);
        Some(read.map(|()| u32::from_le_bytes(count) as usize))
    }

    fn vector(&self, key: &Key) -> std::io::Result<Vec<f32>> {
        let position = self.positions.get(key).ok_or(std::io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; self.dimension * 4];
        let offset = self.offset(*position) + size_of::<Key>() as u64 + 4;
        self.file.file().read_exact_at(&mut bytes, offset)?;
        let number = |four: &[u8]| f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
        Ok(bytes.chunks_exact(4).map(number).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::HashingEmbedder;

    /// Counts the texts it was asked for.
    struct Counting {
        inner: HashingEmbedder,
        asked: AtomicUsize,
    }

    impl Counting {
        fn new() -> Arc<Self> {
            Arc::new(Self { inner: HashingEmbedder::new(8), asked: AtomicUsize::new(0) })
        }
    }

    impl Embedder for Counting {
        fn id(&self) -> &str {
            self.inner.id()
        }
        fn dimension(&self) -> usize {
            self.inner.dimension()
        }
        fn window(&self) -> usize {
            100
        }
        fn count_tokens(&self, text: &str) -> usize {
            self.inner.count_tokens(text)
        }
        fn embed(&self, purpose: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
            self.asked.fetch_add(texts.len(), Ordering::Relaxed);
            self.inner.embed(purpose, texts)
        }
    }

    fn texts(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|n| format!("text number {n}")).collect()
    }

    fn unloadable(folder: &Path) -> CachedEmbedder {
        let load = || Err(fatal("the library is missing"));
        CachedEmbedder::lazy("hashing-8-1", 8, 100, folder, Box::new(load))
    }

    #[test]
    fn a_second_run_embeds_nothing_and_loads_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (counting, texts) = (Counting::new(), texts(0..5));
        let first = CachedEmbedder::new(Arc::clone(&counting) as _, folder.path());
        let vectors = first.embed(Purpose::Passage, &texts).unwrap();
        assert_eq!(vectors, counting.inner.embed(Purpose::Passage, &texts).unwrap());
        assert_eq!(counting.asked.load(Ordering::Relaxed), 5);

        let loads = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&loads);
        let load = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            Err(fatal("the library is missing"))
        };
        let second = CachedEmbedder::lazy("hashing-8-1", 8, 100, folder.path(), Box::new(load));
        assert_eq!(second.embed(Purpose::Passage, &texts).unwrap(), vectors);
        assert_eq!(second.count_tokens(&texts[0]), 3);
        assert_eq!(loads.load(Ordering::Relaxed), 0);
        let error = second.embed(Purpose::Query, &texts).unwrap_err();
        assert!(error.chain().contains("the library is missing"), "a query is another vector");
    }

    #[test]
    fn a_text_is_embedded_once_however_often_it_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let counting = Counting::new();
        let cached = CachedEmbedder::new(Arc::clone(&counting) as _, folder.path());
        let twice = [texts(0..3), texts(0..4)].concat();
        assert_eq!(cached.embed(Purpose::Query, &twice).unwrap().len(), 7);
        assert_eq!(counting.asked.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn two_runs_at_once_share_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = [(); 2].map(|()| CachedEmbedder::new(Counting::new(), folder.path()));
        one.embed(Purpose::Query, &texts(0..3)).unwrap();
        two.embed(Purpose::Query, &texts(2..6)).unwrap();
        one.embed(Purpose::Query, &texts(7..8)).unwrap();
        let expect = HashingEmbedder::new(8).embed(Purpose::Query, &texts(0..6)).unwrap();
        assert_eq!(unloadable(folder.path()).embed(Purpose::Query, &texts(0..6)).unwrap(), expect);
    }

    #[test]
    fn a_file_cut_or_changed_anywhere_keeps_what_came_before() {
        let folder = tempfile::tempdir().unwrap();
        let cached = CachedEmbedder::new(Counting::new(), folder.path());
        cached.embed(Purpose::Passage, &texts(0..10)).unwrap();
        let (path, record) = (cached.path.clone(), 32 + 4 + 8 * 4 + 4);
        let whole = fs_err::read(&path).unwrap();
        assert_eq!(whole.len(), HEADER + 10 * record);
        let expect = HashingEmbedder::new(8).embed(Purpose::Passage, &texts(0..10)).unwrap();
        for step in 0..20 {
            let at = whole.len() * step / 20;
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            for bytes in [&whole[..at], &flipped] {
                fs_err::write(&path, bytes).unwrap();
                let counting = Counting::new();
                let cached = CachedEmbedder::new(Arc::clone(&counting) as _, folder.path());
                assert_eq!(cached.embed(Purpose::Passage, &texts(0..10)).unwrap(), expect);
                let kept = at.saturating_sub(HEADER) / record;
                assert_eq!(counting.asked.load(Ordering::Relaxed), 10 - kept, "damage at {at}");
            }
        }
    }

    #[test]
    fn another_embedder_than_promised_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let load = || Ok(Arc::new(HashingEmbedder::new(16)) as Arc<dyn Embedder>);
        let cached = CachedEmbedder::lazy("minilm", 8, 100, folder.path(), Box::new(load));
        let error = cached.embed(Purpose::Query, &texts(0..1)).unwrap_err().chain();
        assert!(error.contains("`hashing-16-1` (16 numbers) was loaded"), "{error}");
    }
}
