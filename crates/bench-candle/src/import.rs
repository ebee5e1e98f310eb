//! Imports a GGUF file once into a Hugging Face folder with f32 weights, from which every local model
//! is trained and served.
//!
//! The folder appears whole or not at all. Its `bench.json` says what it was made from, and carries a
//! digest of what it holds. Weights pass through in pieces of 16 MiB; the most memory goes to checking
//! the tokenizer (280 MB for 152,000 tokens), however large the model.

mod gguf;
mod layout;
mod tokenizer;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::TryLockError,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use fs_err::{self as fs, File};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use gguf::Gguf;
use layout::{Layout, Weight};
use tokenizer::Vocabulary;

pub(crate) use layout::ROPE_FACTORS;
pub(crate) use tokenizer::{Splitting, splitting_of};

const RECORD: &str = "bench.json";

/// Another importer may write other bytes from the same file; raise the number when it does.
const IMPORTED_BY: &str = concat!("bench-candle ", env!("CARGO_PKG_VERSION"), ", import 2");

/// Elements decoded at a time. Small in tests, so that they cross the borders between pieces.
const PIECE: usize = if cfg!(test) { 64 } else { 1 << 22 };

/// What an import left in its folder; also the content of the folder's `bench.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// GGUF's name of the family.
    pub architecture: String,
    /// Weights in the file; a tied output head counts once.
    pub parameters: u64,
    /// Tensors written.
    pub tensors: usize,
    /// Tokens, without the entries that only pad the embedding.
    pub vocabulary: usize,
    /// Positions the model was made for, in tokens.
    pub context_length: usize,
    /// SHA-256 of `files` in the format of `sha256sum`, sorted by name: weights, configuration,
    /// tokenizer, chat template and stop tokens.
    pub digest: String,
    /// SHA-256 of the GGUF file.
    pub source_sha256: String,
    /// Program and revision that wrote the folder.
    pub imported_by: String,
    /// Every file of the folder but `bench.json`, by name.
    pub files: BTreeMap<String, ImportedFile>,
}

/// One file of an imported folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedFile {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// Why a GGUF file was not imported, or a folder is not an import, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says it, and its fields are what the message names")]
#[non_exhaustive]
pub enum ImportError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(
        "`{path}` is not a GGUF file (it begins with `{found}`): give the path of a `.gguf` model"
    )]
    NotGguf { path: PathBuf, found: String },
    #[error(
        "`{path}` is GGUF version {version}, and versions 2 and 3 can be read: convert it again with a current llama.cpp"
    )]
    Version { path: PathBuf, version: u32 },
    #[error(
        "`{path}` is cut short: it needs at least {needed} bytes and has {size}; download it again"
    )]
    Truncated { path: PathBuf, needed: u64, size: u64 },
    #[error("`{path}` is damaged: {what}; download it again and compare its SHA-256")]
    Damaged { path: PathBuf, what: String },
    #[error(
        "architecture `{found}` cannot be imported; supported are `{supported}`: take a model of one of these, or the model's Hugging Face folder"
    )]
    Architecture { found: String, supported: String },
    #[error(
        "the model uses {what}, which cannot be imported: take the model's Hugging Face folder"
    )]
    Unsupported { what: String },
    #[error(
        "the file has no `{key}`, without which the model is not defined: convert it again with a current llama.cpp"
    )]
    MissingKey { key: String },
    #[error("`{key}` in the file is not {expected}: convert it again with a current llama.cpp")]
    KeyType { key: String, expected: &'static str },
    #[error(
        "tensor `{tensor}` is missing: take a file that holds the whole model, not one part of it"
    )]
    MissingTensor { tensor: String },
    #[error(
        "tensor `{tensor}` has no place in architecture `{architecture}`: leaving it out would change the model; take its Hugging Face folder"
    )]
    UnknownTensor { tensor: String, architecture: &'static str },
    #[error(
        "tensor `{tensor}` has the shape {found:?} where the file's own description asks for {expected:?}: convert it again with a current llama.cpp"
    )]
    Shape { tensor: String, found: Vec<usize>, expected: Vec<usize> },
    #[error(
        "tensor `{tensor}` is stored as {kind}, which cannot be decoded: take the model as Q4_0 to Q8_0, Q2_K to Q6_K, F16, BF16 or F32"
    )]
    TensorKind { tensor: String, kind: String },
    #[error("tensor `{tensor}` cannot be decoded")]
    Decode {
        tensor: String,
        #[source]
        source: candle_core::Error,
    },
    #[error(
        "tensor `{tensor}` holds a weight that is not a finite number: the file is damaged; download it again"
    )]
    NotFinite { tensor: String },
    #[error(
        "tokenizer model `{found}` cannot be imported, only byte-level BPE (`gpt2`) and SentencePiece's BPE (`llama`): take the model's Hugging Face folder, which has its `tokenizer.json`"
    )]
    TokenizerModel { found: String },
    #[error(
        "the file splits text by the rules of `{found}`; known are `gpt-2`, `smollm`, `qwen2` and `llama-bpe`: take the model's Hugging Face folder, which has its `tokenizer.json`"
    )]
    Splitting { found: String },
    #[error(
        "the vocabulary does not fit together: it has {what}; convert the file again with a current llama.cpp"
    )]
    Vocabulary { what: String },
    #[error("`{folder}` exists and is not an import: choose another folder, or remove this one")]
    Occupied { folder: PathBuf },
    #[error("another process is importing into `{folder}`: wait for it to finish")]
    Busy { folder: PathBuf },
    #[error("`{folder}` is not a finished import: {what}; import the model again")]
    NotImported { folder: PathBuf, what: String },
}

/// Writes `gguf` as a Hugging Face folder: `model.safetensors` in f32, `config.json`,
/// `tokenizer.json`, `tokenizer_config.json` with the chat template, and `generation_config.json`.
///
/// The work is done in a hidden folder beside `folder`, which is renamed at the end; what a killed
/// import left there is cleared by the next. A folder that already holds this import is returned as
/// it is, and one that holds another import is replaced. `on_tensor` hears of each tensor written.
pub fn gguf_to_folder(
    gguf: &Path,
    folder: &Path,
    on_tensor: &mut dyn FnMut(usize, usize),
) -> Result<Imported, ImportError> {
    let mut source = Gguf::open(gguf)?;
    let layout = Layout::read(&mut source)?;
    let vocabulary = Vocabulary::read(&source)?;
    let source_sha256 = sha256(gguf)?;

    let replaces = match Imported::open(folder) {
        Ok(found) if found.source_sha256 == source_sha256 && found.imported_by == IMPORTED_BY => {
            return Ok(found);
        }
        _ if !folder.exists() => false,
        _ if folder.join(RECORD).is_file() => true,
        _ => return Err(ImportError::Occupied { folder: folder.into() }),
    };

    let partial = Partial::claim(folder)?;
    let mut files = BTreeMap::new();
    for (name, content) in [
        ("config.json", &layout.config(vocabulary.bos, vocabulary.eos)),
        ("generation_config.json", &vocabulary.generation_config),
        ("tokenizer.json", &vocabulary.tokenizer),
        ("tokenizer_config.json", &vocabulary.tokenizer_config),
    ] {
        let mut file = Hashed::create(&partial.path.join(name))?;
        serde_json::to_writer_pretty(&mut file, content).map_err(io::Error::from)?;
        files.insert(name.into(), file.finish()?);
    }
    let weights = layout.weights();
    let mut file = Hashed::create(&partial.path.join("model.safetensors"))?;
    file.write_all(&safetensors_header(&weights)?)?;
    for (index, weight) in weights.iter().enumerate() {
        write_weight(&mut source, weight, &mut file)?;
        on_tensor(index + 1, weights.len());
    }
    files.insert("model.safetensors".into(), file.finish()?);

    let imported = Imported {
        architecture: layout.architecture.into(),
        parameters: weights.iter().map(n_elements).sum(),
        tensors: weights.len(),
        vocabulary: vocabulary.n_tokens,
        context_length: layout.context_length,
        digest: digest(&files),
        source_sha256,
        imported_by: IMPORTED_BY.into(),
        files,
    };
    let record = serde_json::to_vec_pretty(&imported).map_err(io::Error::from)?;
    fs::write(partial.path.join(RECORD), record)?;
    if replaces {
        fs::remove_dir_all(folder)?;
    }
    partial.publish(folder)?;
    Ok(imported)
}

impl Imported {
    /// Reads what the import in `folder` left, and checks that each of its files has its length. The
    /// content is not hashed again.
    pub fn open(folder: &Path) -> Result<Self, ImportError> {
        let broken = |what: String| ImportError::NotImported { folder: folder.into(), what };
        let record = fs::read(folder.join(RECORD)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => broken(format!("it has no `{RECORD}`")),
            _ => error.into(),
        })?;
        let imported: Self = serde_json::from_slice(&record)
            .map_err(|error| broken(format!("its `{RECORD}` cannot be read ({error})")))?;
        for (name, file) in &imported.files {
            let found = fs::metadata(folder.join(name)).map_or(0, |metadata| metadata.len());
            if found != file.bytes {
                return Err(broken(format!(
                    "`{name}` has {found} bytes where {} were written",
                    file.bytes
                )));
            }
        }
        Ok(imported)
    }
}

fn digest(files: &BTreeMap<String, ImportedFile>) -> String {
    let mut hasher = Sha256::new();
    for (name, file) in files {
        hasher.update(format!("{}  {name}\n", file.sha256));
    }
    format!("{:x}", hasher.finalize())
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(format!("{:x}", hasher.finalize()))
}

fn n_elements(weight: &Weight) -> u64 {
    weight.shape.iter().map(|&size| size as u64).product()
}

/// The length and the JSON that open a safetensors file, padded so that the weights are aligned.
fn safetensors_header(weights: &[Weight]) -> io::Result<Vec<u8>> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut start = 0;
    for weight in weights {
        let end = start + 4 * n_elements(weight);
        header.insert(
            weight.target.clone(),
            json!({"dtype": "F32", "shape": weight.shape, "data_offsets": [start, end]}),
        );
        start = end;
    }
    let mut text = serde_json::to_vec(&Value::Object(header))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    Ok(bytes)
}

/// Decodes a tensor piece by piece. Where the file interleaves the two halves of each head (row
/// `2i + j` of the head is row `i` of half `j`), they are put back one after the other.
fn write_weight(gguf: &mut Gguf, weight: &Weight, out: &mut Hashed) -> Result<(), ImportError> {
    let tensor = gguf.tensors[&weight.source].clone();
    let n_columns = tensor.n_columns();
    let unit = weight.interleaved_head.unwrap_or(1);
    let step = (PIECE / n_columns / unit).max(1) * unit;
    let mut bytes = Vec::new();
    for first in (0..tensor.n_rows()).step_by(step) {
        let last = (first + step).min(tensor.n_rows());
        let mut values = gguf.rows(&weight.source, &tensor, first..last)?;
        if weight.lifted {
            for value in &mut values {
                *value -= 1.0;
            }
        }
        let mut put = |row: usize| {
            let row = &values[row * n_columns..(row + 1) * n_columns];
            bytes.extend(row.iter().flat_map(|value| value.to_le_bytes()));
        };
        match weight.interleaved_head {
            None => (0..last - first).for_each(put),
            Some(size) => (0..last - first).step_by(size).for_each(|head| {
                for half in 0..2 {
                    (0..size / 2).for_each(|i| put(head + 2 * i + half));
                }
            }),
        }
        out.write_all(&bytes)?;
        bytes.clear();
    }
    Ok(())
}

/// A file that is hashed as it is written.
struct Hashed {
    file: BufWriter<File>,
    hasher: Sha256,
    bytes: u64,
}

impl Hashed {
    fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        Ok(Self { file, hasher: Sha256::new(), bytes: 0 })
    }

    fn finish(mut self) -> io::Result<ImportedFile> {
        self.file.flush()?;
        let sha256 = format!("{:x}", self.hasher.finalize());
        Ok(ImportedFile { bytes: self.bytes, sha256 })
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The hidden folder of an import in progress; removed when dropped, locked so that two processes do
/// not write into it.
struct Partial {
    path: PathBuf,
    lock: File,
    lock_path: PathBuf,
}

impl Partial {
    fn claim(folder: &Path) -> Result<Self, ImportError> {
        let name =
            folder.file_name().ok_or_else(|| ImportError::Occupied { folder: folder.into() })?;
        let hidden = |suffix: &str| {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(suffix);
            folder.with_file_name(hidden)
        };
        let (path, lock_path) = (hidden(".partial"), hidden(".lock"));
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent)?;
        }
        let lock = File::create(&lock_path)?;
        lock.file().try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => ImportError::Busy { folder: folder.into() },
            TryLockError::Error(error) => error.into(),
        })?;
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path)?;
        Ok(Self { path, lock, lock_path })
    }

    fn publish(self, folder: &Path) -> io::Result<()> {
        fs::rename(&self.path, folder)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove; after an error, nothing better to do than
        // to leave it to the next import.
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_file(&self.lock_path);
        let _ = self.lock.file().unlock();
    }
}
