//! Weights of a Hugging Face folder: f32 stays in the mapped file, f16 and bf16 are widened once.

use std::{
    collections::BTreeMap,
    ops::{Deref, Range},
    path::{Path, PathBuf},
    sync::Arc,
};

use fs_err as fs;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::error::TrainError;

/// Numbers of one tensor.
#[derive(Clone)]
pub(crate) enum Weight {
    /// f32 as it lies in a file.
    Mapped { file: Arc<Mmap>, bytes: Range<usize> },
    /// Widened to f32, or made here.
    Owned(Arc<[f32]>),
    /// With 1 added to each number, beside what is stored: the norms of Gemma 3.
    Lifted { stored: Box<Weight>, numbers: Arc<[f32]> },
}

impl Weight {
    /// The same with 1 added to each number.
    pub(crate) fn lifted(self) -> Self {
        let numbers = self.iter().map(|number| number + 1.0).collect();
        Self::Lifted { stored: Box::new(self), numbers }
    }

    /// The numbers as files keep them.
    pub(crate) fn stored(&self) -> &Self {
        match self {
            Self::Lifted { stored, .. } => stored,
            Self::Mapped { .. } | Self::Owned(_) => self,
        }
    }

    /// Says that the numbers will not be read soon: what a mapped file holds of them in memory can go.
    /// They come back from the system's cache of the file, or from the disk, when they are read.
    pub(crate) fn release(&self) {
        #[cfg(unix)]
        if let Self::Mapped { file, bytes } = self {
            // SAFETY: the mapping is of a file and is never written to, so a page that is dropped
            // comes back as it was.
            #[expect(unsafe_code, reason = "gives back the memory of mapped pages")]
            let released = unsafe {
                file.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    bytes.start,
                    bytes.len(),
                )
            };
            // Memory that stays taken costs nothing but memory.
            drop(released);
        }
    }
}

impl Deref for Weight {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Mapped { file, bytes } => {
                // SAFETY: `Weights::take` made this only of aligned bytes, and any bits are an f32.
                #[expect(unsafe_code, reason = "reads the file's numbers where they lie")]
                let (_, numbers, _) = unsafe { file[bytes.clone()].align_to::<f32>() };
                numbers
            }
            Self::Owned(numbers) | Self::Lifted { numbers, .. } => numbers,
        }
    }
}

/// The tensors of a folder, by name.
pub(crate) struct Weights {
    folder: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

struct Tensor {
    file: Arc<Mmap>,
    bytes: Range<usize>,
    kind: Dtype,
    shape: Vec<usize>,
}

impl Weights {
    /// Opens `model.safetensors`, or the files that `model.safetensors.index.json` names.
    pub(crate) fn open(folder: &Path) -> Result<Self, TrainError> {
        let index = folder.join("model.safetensors.index.json");
        let mut files = vec![folder.join("model.safetensors")];
        if !files[0].exists() && index.exists() {
            let unreadable = |what: String| TrainError::Unreadable { path: index.clone(), what };
            let json: Value = serde_json::from_slice(&fs::read(&index)?)
                .map_err(|error| unreadable(error.to_string()))?;
            let map = json["weight_map"].as_object();
            let map = map.ok_or_else(|| unreadable("it has no `weight_map`".into()))?;
            files = map.values().filter_map(Value::as_str).map(|name| folder.join(name)).collect();
            files.sort();
            files.dedup();
        }
        let mut tensors = BTreeMap::new();
        for path in files {
            read_file(&path, &mut tensors)?;
        }
        Ok(Self { folder: folder.into(), tensors })
    }

    /// One tensor file alone, for an adapter.
    pub(crate) fn open_file(path: &Path) -> Result<Self, TrainError> {
        let mut tensors = BTreeMap::new();
        read_file(path, &mut tensors)?;
        Ok(Self { folder: path.into(), tensors })
    }

    /// Whether a tensor is there and has not been taken.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape of a tensor that has not been taken.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// Names of the tensors that have not been taken.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Takes a tensor that must have this shape.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Weight, TrainError> {
        let tensor = self.tensors.remove(name).ok_or_else(|| TrainError::MissingTensor {
            tensor: name.into(),
            folder: self.folder.clone(),
        })?;
        if tensor.shape != shape {
            return Err(TrainError::Shape {
                tensor: name.into(),
                found: tensor.shape,
                expected: shape.into(),
            });
        }
        let bytes = &tensor.file[tensor.bytes.clone()];
        let aligned = bytes.as_ptr().align_offset(align_of::<f32>()) == 0;
        Ok(match tensor.kind {
            Dtype::F32 if aligned && cfg!(target_endian = "little") => {
                Weight::Mapped { file: tensor.file, bytes: tensor.bytes }
            }
            Dtype::F32 => Weight::Owned(
                bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            ),
            Dtype::F16 => Weight::Owned(
                bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|bytes| half::f16::from_le_bytes(*bytes).to_f32())
                    .collect(),
            ),
            Dtype::BF16 => Weight::Owned(
                bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32())
                    .collect(),
            ),
            other => {
                let found = format!("{other:?}").to_lowercase();
                return Err(TrainError::TensorType { tensor: name.into(), found });
            }
        })
    }
}

fn read_file(path: &Path, tensors: &mut BTreeMap<String, Tensor>) -> Result<(), TrainError> {
    let unreadable = |what: String| TrainError::Unreadable { path: path.into(), what };
    let file = fs::File::open(path)?;
    // SAFETY: the file must not be cut while it is mapped. Model folders appear whole and are never
    // written to again; whoever breaks that gets a signal instead of wrong numbers.
    #[expect(unsafe_code, reason = "maps the weights instead of copying them")]
    let map = Arc::new(unsafe { Mmap::map(file.file()) }?);
    let (header, metadata) =
        SafeTensors::read_metadata(&map).map_err(|error| unreadable(error.to_string()))?;
    let start = header + 8;
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let (from, to) = info.data_offsets;
        if map.len() < start + to {
            return Err(unreadable(format!("it ends within `{name}`")));
        }
        let bytes = start + from..start + to;
        let tensor =
            Tensor { file: map.clone(), bytes, kind: info.dtype, shape: info.shape.clone() };
        tensors.insert(name, tensor);
    }
    Ok(())
}
