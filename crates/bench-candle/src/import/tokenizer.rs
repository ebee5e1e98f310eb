//! Rebuilds a Hugging Face tokenizer from the vocabulary, merges and chat template of a GGUF file.
//!
//! The file names its way of splitting text (`tokenizer.ggml.pre`) and does not describe it, so each
//! way is written down here, as the model's publisher configured it.

use std::{
    collections::{HashMap, HashSet},
    str::FromStr,
};

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::{ImportError, gguf::Gguf};

/// What the folder says about text: three of its files, and the numbers that `config.json` needs.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) tokenizer: Value,
    pub(super) tokenizer_config: Value,
    pub(super) generation_config: Value,
    /// Tokens, padding entries left out.
    pub(super) n_tokens: usize,
    pub(super) bos: Option<usize>,
    pub(super) eos: usize,
}

/// How text becomes what pairs are merged of.
struct Form {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    /// A piece that is a token as a whole is not merged.
    ignore_merges: bool,
    adds_bos: bool,
}

/// The ways of splitting text that a GGUF file names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Splitting {
    /// Bytes, split by a rule that has a name.
    Bytes(&'static str),
    /// SentencePiece's pieces, where a space is a character of its own.
    Pieces {
        /// Whether text begins with a space in any case.
        prefix: bool,
    },
}

/// SentencePiece's sign for a space.
const SPACE: &str = "\u{2581}";

/// Token types of `llama_token_type` in llama.h.
const UNKNOWN: usize = 2;
const CONTROL: usize = 3;
const USER_DEFINED: usize = 4;
const UNUSED: usize = 5;
const BYTE: usize = 6;

/// Tokens that end an answer in one chat format or another; a model stops at each one it has.
const ENDS: [&str; 7] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<end_of_turn>",
];

impl Vocabulary {
    pub(super) fn read(gguf: &Gguf) -> Result<Self, ImportError> {
        let missing = |key: &str| ImportError::MissingKey { key: key.into() };
        let splitting = match gguf.text("tokenizer.ggml.model")?.unwrap_or("(none)") {
            "gpt2" => Splitting::named(gguf.text("tokenizer.ggml.pre")?.unwrap_or("(none)"))?,
            "llama" => Splitting::Pieces {
                prefix: gguf.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
            },
            other => return Err(ImportError::TokenizerModel { found: other.into() }),
        };
        let form = splitting.form();
        let tokens =
            gguf.texts("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
        let types = gguf
            .counts("tokenizer.ggml.token_type")?
            .ok_or_else(|| missing("tokenizer.ggml.token_type"))?;
        if types.len() != tokens.len() {
            return Err(ImportError::Vocabulary {
                what: format!("{} tokens and {} token types", tokens.len(), types.len()),
            });
        }
        let merges = match splitting {
            Splitting::Bytes(_) => gguf
                .texts("tokenizer.ggml.merges")?
                .ok_or_else(|| missing("tokenizer.ggml.merges"))?
                .into_iter()
                .map(|merge| {
                    split_merge(merge).ok_or_else(|| ImportError::Vocabulary {
                        what: format!("the merge `{merge}`, which is not two tokens"),
                    })
                })
                .collect::<Result<Vec<_>, _>>()?,
            Splitting::Pieces { .. } => {
                let scores = gguf.floats("tokenizer.ggml.scores")?;
                let scores = scores.ok_or_else(|| missing("tokenizer.ggml.scores"))?;
                if scores.len() != tokens.len() {
                    return Err(ImportError::Vocabulary {
                        what: format!("{} tokens and {} scores", tokens.len(), scores.len()),
                    });
                }
                merges_by_score(&tokens, &types, &scores)
            }
        };
        let token_id = |name: &str| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match gguf.count(&key)? {
                Some(id) if id >= tokens.len() => Err(ImportError::Vocabulary {
                    what: format!("{} tokens, and `{key}` is {id}", tokens.len()),
                }),
                id => Ok(id),
            }
        };
        let eos = token_id("eos")?.ok_or_else(|| missing("tokenizer.ggml.eos_token_id"))?;
        let bos = token_id("bos")?;
        let adds_bos = gguf.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(form.adds_bos);

        let mut vocabulary = Map::new();
        let mut added = Vec::new();
        let mut ends = vec![eos];
        ends.extend(token_id("eot")?.into_iter().chain(token_id("eom")?));
        let named_ends = HashSet::from(ENDS);
        for (id, (&token, &kind)) in tokens.iter().zip(&types).enumerate() {
            if kind == UNUSED {
                continue;
            }
            if vocabulary.insert(token.into(), json!(id)).is_some() {
                return Err(ImportError::Vocabulary { what: format!("the token `{token}` twice") });
            }
            if matches!(kind, CONTROL | USER_DEFINED | UNKNOWN) {
                added.push(json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": kind != USER_DEFINED,
                }));
            }
            if kind == CONTROL && named_ends.contains(token) {
                ends.push(id);
            }
        }
        let mut seen = HashSet::new();
        ends.retain(|&id| seen.insert(id));

        let n_tokens = vocabulary.len();
        let pieces = matches!(splitting, Splitting::Pieces { .. });
        let unknown = types.iter().position(|kind| *kind == UNKNOWN).filter(|_| pieces);
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": form.normalizer,
            "pre_tokenizer": form.pre_tokenizer,
            "post_processor": bos.filter(|_| adds_bos).map(|id| begin_with(tokens[id], id)),
            "decoder": form.decoder,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": unknown.map(|id| tokens[id]),
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": pieces, "byte_fallback": pieces,
                "ignore_merges": form.ignore_merges,
                "vocab": vocabulary, "merges": merges,
            },
        });
        Tokenizer::from_str(&tokenizer.to_string())
            .map_err(|error| ImportError::Vocabulary { what: error.to_string() })?;

        let name = |id: Option<usize>| id.map(|id| tokens[id]);
        let mut tokenizer_config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": adds_bos,
            "bos_token": name(bos),
            "eos_token": tokens[eos],
            "pad_token": name(token_id("padding")?),
            "clean_up_tokenization_spaces": false,
        });
        if let Some(template) = gguf.text("tokenizer.chat_template")? {
            tokenizer_config["chat_template"] = json!(template);
        }
        Ok(Self {
            tokenizer,
            tokenizer_config,
            generation_config: json!({"bos_token_id": bos, "eos_token_id": ends}),
            n_tokens,
            bos,
            eos,
        })
    }
}

/// The two halves of a merge, at the first space that is not itself the first half.
fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = first + merge[first..].find(' ')?;
    Some((&merge[..space], &merge[space + 1..]))
}

/// The merges of a SentencePiece vocabulary: each way to make a token of two others, the tokens with
/// the highest score first, as SentencePiece merges them.
fn merges_by_score<'a>(
    tokens: &[&'a str],
    types: &[usize],
    scores: &[f64],
) -> Vec<(&'a str, &'a str)> {
    let ids: HashMap<&str, usize> = tokens.iter().copied().zip(0..).collect();
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        if matches!(types[id], CONTROL | UNKNOWN | UNUSED | BYTE) {
            continue;
        }
        for (cut, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(cut);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push((scores[id], left, right));
            }
        }
    }
    let length = |text: &str| text.chars().count();
    merges.sort_by(|a, b| {
        b.0.total_cmp(&a.0)
            .then_with(|| length(b.1).cmp(&length(a.1)))
            .then_with(|| length(b.2).cmp(&length(a.2)))
    });
    merges.into_iter().map(|(_, left, right)| (left, right)).collect()
}

/// How the tokenizer of a Hugging Face folder splits text, where a GGUF file has a name for it.
pub(crate) fn splitting_of(tokenizer: &Value) -> Option<Splitting> {
    let bytes = ["gpt-2", "smollm", "qwen2", "llama-bpe"].map(Splitting::Bytes);
    let pieces = [true, false].map(|prefix| Splitting::Pieces { prefix });
    // Offsets play no part in what the ids are, and neither does whether a split is said to be kept
    // when nothing is left to split.
    let plain = |value: &Value| {
        let mut value = value.clone();
        strip(&mut value);
        value
    };
    bytes.into_iter().chain(pieces).find(|splitting| {
        let form = splitting.form();
        let is_pieces = matches!(splitting, Splitting::Pieces { .. });
        let falls_back = tokenizer["model"]["byte_fallback"] == true;
        is_pieces == falls_back
            && plain(&form.normalizer) == plain(&tokenizer["normalizer"])
            && (is_pieces || plain(&form.pre_tokenizer) == plain(&tokenizer["pre_tokenizer"]))
    })
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.remove("trim_offsets");
            object.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl Splitting {
    fn named(name: &str) -> Result<Self, ImportError> {
        Ok(Self::Bytes(match name {
            "gpt-2" => "gpt-2",
            "smollm" => "smollm",
            "qwen2" => "qwen2",
            "llama-bpe" | "llama3" | "llama-v3" => "llama-bpe",
            _ => return Err(ImportError::Splitting { found: name.into() }),
        }))
    }

    fn form(self) -> Form {
        let plain = |pre_tokenizer| Form {
            normalizer: Value::Null,
            pre_tokenizer,
            decoder: byte_level(true),
            ignore_merges: false,
            adds_bos: false,
        };
        match self {
            Self::Bytes("smollm") => plain(sequence(
                &json!({"type": "Digits", "individual_digits": true}),
                &byte_level(true),
            )),
            Self::Bytes("qwen2") => Form {
                normalizer: json!({"type": "NFC"}),
                ..plain(sequence(&words(r"\p{N}"), &byte_level(false)))
            },
            Self::Bytes("llama-bpe") => Form {
                ignore_merges: true,
                adds_bos: true,
                ..plain(sequence(&words(r"\p{N}{1,3}"), &byte_level(false)))
            },
            Self::Bytes(_) => plain(byte_level(true)),
            Self::Pieces { prefix } => pieces(prefix),
        }
    }
}

/// SentencePiece's form: spaces become characters, and what is no token becomes its bytes.
fn pieces(prefix: bool) -> Form {
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let normalizer = if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        let prepend = json!({"type": "Prepend", "prepend": SPACE});
        json!({"type": "Sequence", "normalizers": [prepend, spaces]})
    } else {
        spaces
    };
    Form {
        normalizer,
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        ignore_merges: false,
        adds_bos: true,
    }
}

fn sequence(first: &Value, second: &Value) -> Value {
    json!({"type": "Sequence", "pretokenizers": [first, second]})
}

fn byte_level(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
        "use_regex": use_regex,
    })
}

/// The pattern that Qwen 2 and Llama 3 share but for how many digits stay together.
fn words(digits: &str) -> Value {
    let pattern = format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

fn begin_with(token: &str, id: usize) -> Value {
    let begin = json!({"SpecialToken": {"id": token, "type_id": 0}});
    json!({
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            begin, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": token, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    })
}
