//! Writes tensors as a safetensors file, without a second copy of them in memory.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use fs_err::File;
use serde_json::{Map, Value, json};

/// Numbers turned into bytes at a time.
const PIECE: usize = 1 << 14;

/// A tensor's name, shape and numbers.
pub(crate) type Tensor<'a> = (String, Vec<usize>, &'a [f32]);

/// Writes `tensors` to a new file at `path` and waits until they are on the disk.
pub(crate) fn write(path: &Path, metadata: &Value, tensors: &[Tensor<'_>]) -> io::Result<()> {
    write_with_bytes(path, metadata, tensors, &[])
}

/// [`write`], with vectors of bytes after the tensors.
pub(crate) fn write_with_bytes(
    path: &Path,
    metadata: &Value,
    tensors: &[Tensor<'_>],
    bytes: &[(&str, &[u8])],
) -> io::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), metadata.clone());
    let mut start = 0;
    for (name, shape, numbers) in tensors {
        let end = start + 4 * numbers.len();
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
        start = end;
    }
    for (name, bytes) in bytes {
        let end = start + bytes.len();
        let entry = json!({"dtype": "U8", "shape": [bytes.len()], "data_offsets": [start, end]});
        header.insert((*name).to_owned(), entry);
        start = end;
    }
    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(&text)?;
    for numbers in tensors.iter().flat_map(|tensor| tensor.2.chunks(PIECE)) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        file.write_all(&bytes)?;
    }
    for (_, bytes) in bytes {
        file.write_all(bytes)?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}
