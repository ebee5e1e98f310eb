//! Reads a GGUF file: its metadata, its list of tensors, and rows of weights as f32.
//!
//! Our own reader of the header, because candle's trusts every length it meets (a damaged file aborts
//! the program), and names neither the tensor nor the kind when it cannot read one. The blocks of
//! weights are decoded by candle. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::{
    collections::BTreeMap,
    io::{BufReader, Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use candle_core::{
    Device,
    quantized::{GgmlDType, ggml_file::qtensor_from_ggml},
};
use fs_err::File;

use super::ImportError;

/// An open GGUF file whose header has been read and whose tensors all lie within the file.
#[derive(Debug)]
pub(super) struct Gguf {
    metadata: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, Tensor>,
    file: File,
}

/// Where a tensor lies in the file. The shape is rows first, the opposite of the file's.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub(super) shape: Vec<usize>,
    kind: GgmlDType,
    start: u64,
}

#[derive(Debug)]
enum Value {
    Integer(i128),
    Float(f64),
    Flag(bool),
    Text(String),
    List(Vec<Value>),
}

impl Gguf {
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut header = Header { reader: BufReader::new(file), at: 0, size, path };

        let magic = header.bytes(4)?;
        if magic != b"GGUF" {
            return Err(ImportError::NotGguf {
                path: path.into(),
                found: magic.escape_ascii().to_string(),
            });
        }
        let version = header.u32()?;
        if !(2..=3).contains(&version) {
            return Err(ImportError::Version { path: path.into(), version });
        }
        let n_tensors = header.u64()?;
        let n_keys = header.u64()?;
        let mut metadata = BTreeMap::new();
        for _ in 0..n_keys {
            let key = header.text()?;
            let kind = header.u32()?;
            metadata.insert(key, header.value(kind)?);
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..n_tensors {
            let (name, tensor) = header.tensor()?;
            tensors.insert(name, tensor);
        }

        let alignment = match metadata.get("general.alignment") {
            Some(Value::Integer(bytes)) => u64::try_from(*bytes).unwrap_or(0),
            _ => 32,
        };
        let data = header
            .at
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| header.damaged("its alignment is zero"))?;
        for tensor in tensors.values_mut() {
            let end = data
                .checked_add(tensor.start)
                .and_then(|start| start.checked_add(tensor.byte_count(0..tensor.n_rows()) as u64));
            tensor.start = tensor.start.saturating_add(data);
            let needed = end.unwrap_or(u64::MAX);
            if needed > size {
                return Err(ImportError::Truncated { path: path.into(), needed, size });
            }
        }
        Ok(Self { metadata, tensors, file: header.reader.into_inner() })
    }

    /// Rows of a tensor, decoded; a tensor of one dimension is one row.
    pub(super) fn rows(
        &mut self,
        name: &str,
        tensor: &Tensor,
        rows: Range<usize>,
    ) -> Result<Vec<f32>, ImportError> {
        let mut raw = vec![0; tensor.byte_count(rows.clone())];
        self.file.seek(SeekFrom::Start(tensor.start + tensor.byte_count(0..rows.start) as u64))?;
        self.file.read_exact(&mut raw)?;
        let values = qtensor_from_ggml(
            tensor.kind,
            &raw,
            vec![rows.len() * tensor.n_columns()],
            &Device::Cpu,
        )
        .and_then(|blocks| blocks.dequantize(&Device::Cpu)?.to_vec1::<f32>())
        .map_err(|source| ImportError::Decode { tensor: name.into(), source })?;
        if values.iter().all(|value| value.is_finite()) {
            Ok(values)
        } else {
            Err(ImportError::NotFinite { tensor: name.into() })
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, ImportError> {
        self.get(key, "text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, ImportError> {
        self.get(key, "a count", as_count)
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, ImportError> {
        self.get(key, "a number", |value| match value {
            Value::Float(number) => Some(*number),
            Value::Integer(number) => Some(*number as f64),
            _ => None,
        })
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ImportError> {
        self.get(key, "true or false", |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, ImportError> {
        self.get(key, "a list of texts", |value| match value {
            Value::List(items) => items
                .iter()
                .map(|item| match item {
                    Value::Text(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect(),
            _ => None,
        })
    }

    pub(super) fn counts(&self, key: &str) -> Result<Option<Vec<usize>>, ImportError> {
        self.get(key, "a list of counts", |value| match value {
            Value::List(items) => items.iter().map(as_count).collect(),
            _ => None,
        })
    }

    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f64>>, ImportError> {
        self.get(key, "a list of numbers", |value| match value {
            Value::List(items) => items
                .iter()
                .map(|item| match item {
                    Value::Float(number) => Some(*number),
                    Value::Integer(number) => Some(*number as f64),
                    _ => None,
                })
                .collect(),
            _ => None,
        })
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ImportError> {
        self.metadata
            .get(key)
            .map(|value| {
                read(value).ok_or_else(|| ImportError::KeyType { key: key.into(), expected })
            })
            .transpose()
    }
}

fn as_count(value: &Value) -> Option<usize> {
    match value {
        // No count in a model reaches 2^32, and products of two that do not fit in 64 bits.
        Value::Integer(number) => u32::try_from(*number).ok().map(|count| count as usize),
        _ => None,
    }
}

impl Tensor {
    pub(super) fn n_columns(&self) -> usize {
        *self.shape.last().expect("a tensor without dimensions is refused when read")
    }

    pub(super) fn n_rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    fn byte_count(&self, rows: Range<usize>) -> usize {
        rows.len() * self.n_columns() / self.kind.block_size() * self.kind.type_size()
    }
}

/// A cursor that checks each length against what is left of the file before it allocates.
struct Header<'a> {
    reader: BufReader<File>,
    at: u64,
    size: u64,
    path: &'a Path,
}

impl Header<'_> {
    fn bytes(&mut self, n_bytes: u64) -> Result<Vec<u8>, ImportError> {
        self.require(n_bytes)?;
        let mut bytes = vec![0; n_bytes as usize];
        self.reader.read_exact(&mut bytes)?;
        self.at += n_bytes;
        Ok(bytes)
    }

    fn require(&self, n_bytes: u64) -> Result<(), ImportError> {
        let needed = self.at.saturating_add(n_bytes);
        if needed > self.size {
            return Err(ImportError::Truncated { path: self.path.into(), needed, size: self.size });
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ImportError> {
        self.require(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, ImportError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, ImportError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, ImportError> {
        let n_bytes = self.u64()?;
        let bytes = self.bytes(n_bytes)?;
        String::from_utf8(bytes).map_err(|_| self.damaged("a text in it is not UTF-8"))
    }

    fn value(&mut self, kind: u32) -> Result<Value, ImportError> {
        if kind != 9 {
            return self.scalar(kind);
        }
        let kind = self.u32()?;
        let n_items = self.u64()?;
        self.require(n_items)?;
        let items = (0..n_items).map(|_| self.scalar(kind)).collect::<Result<_, _>>()?;
        Ok(Value::List(items))
    }

    fn scalar(&mut self, kind: u32) -> Result<Value, ImportError> {
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(shortest(f32::from_le_bytes(self.array()?))),
            7 => Value::Flag(self.array::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(self.damaged(&format!("value type {kind} does not exist here"))),
        })
    }

    fn tensor(&mut self) -> Result<(String, Tensor), ImportError> {
        let name = self.text()?;
        let n_dimensions = self.u32()?;
        if !(1..=4).contains(&n_dimensions) {
            return Err(self.damaged(&format!("tensor `{name}` has {n_dimensions} dimensions")));
        }
        let mut shape = (0..n_dimensions)
            .map(|_| self.u64().map(|size| size as usize))
            .collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        let kind = kind(self.u32()?)
            .map_err(|kind| ImportError::TensorKind { tensor: name.clone(), kind: kind.into() })?;
        let tensor = Tensor { shape, kind, start: self.u64()? };
        let n_elements = tensor.shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size));
        let fits = n_elements.is_some_and(|n| n > 0 && n <= self.size as usize * 32);
        if !fits || !tensor.n_columns().is_multiple_of(kind.block_size()) {
            return Err(self
                .damaged(&format!("tensor `{name}` has the impossible shape {:?}", tensor.shape)));
        }
        Ok((name, tensor))
    }

    fn damaged(&self, what: &str) -> ImportError {
        ImportError::Damaged { path: PathBuf::from(self.path), what: what.into() }
    }
}

/// The number its author wrote: 1e-5, and not 9.999999747378752e-6.
fn shortest(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| number.into())
}

/// Codes of `ggml_type` in ggml.h; the error is the name of a kind that candle does not decode.
fn kind(code: u32) -> Result<GgmlDType, &'static str> {
    Ok(match code {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        9 => return Err("Q8_1"),
        15 => return Err("Q8_K"),
        16 => return Err("IQ2_XXS"),
        17 => return Err("IQ2_XS"),
        18 => return Err("IQ3_XXS"),
        19 => return Err("IQ1_S"),
        20 => return Err("IQ4_NL"),
        21 => return Err("IQ3_S"),
        22 => return Err("IQ2_S"),
        23 => return Err("IQ4_XS"),
        24..=27 => return Err("integers"),
        28 => return Err("F64"),
        29 => return Err("IQ1_M"),
        34 | 35 => return Err("ternary"),
        39 => return Err("MXFP4"),
        _ => return Err("a kind without a name"),
    })
}
