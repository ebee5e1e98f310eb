//! Rebuilds a Hugging Face tokenizer from the vocabulary, merges and chat template of a GGUF file.
//!
//! The file names its way of splitting text (`tokenizer.ggml.pre`) and does not describe it, so each
//! way is written down here, as the model's publisher configured it.

use std::{collections::HashSet, str::FromStr};

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

/// How text is split before byte pairs are merged.
struct Splitting {
    normalizer: Value,
    pre_tokenizer: Value,
    /// A piece that is a token as a whole is not merged.
    ignore_merges: bool,
    adds_bos: bool,
}

/// Token types of `llama_token_type` in llama.h.
const CONTROL: usize = 3;
const USER_DEFINED: usize = 4;
const UNUSED: usize = 5;

/// Tokens that end an answer in one chat format or another; a model stops at each one it has.
const ENDS: [&str; 6] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "</s>"];

impl Vocabulary {
    pub(super) fn read(gguf: &Gguf) -> Result<Self, ImportError> {
        let missing = |key: &str| ImportError::MissingKey { key: key.into() };
        let model = gguf.text("tokenizer.ggml.model")?.unwrap_or("(none)");
        if model != "gpt2" {
            return Err(ImportError::TokenizerModel { found: model.into() });
        }
        let splitting = splitting(gguf.text("tokenizer.ggml.pre")?.unwrap_or("(none)"))?;
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
        let merges = gguf
            .texts("tokenizer.ggml.merges")?
            .ok_or_else(|| missing("tokenizer.ggml.merges"))?
            .into_iter()
            .map(|merge| {
                split_merge(merge).ok_or_else(|| ImportError::Vocabulary {
                    what: format!("the merge `{merge}`, which is not two tokens"),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
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
        let adds_bos = gguf.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(splitting.adds_bos);

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
            if matches!(kind, CONTROL | USER_DEFINED) {
                added.push(json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": kind == CONTROL,
                }));
            }
            if kind == CONTROL && named_ends.contains(token) {
                ends.push(id);
            }
        }
        let mut seen = HashSet::new();
        ends.retain(|&id| seen.insert(id));

        let n_tokens = vocabulary.len();
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": splitting.normalizer,
            "pre_tokenizer": splitting.pre_tokenizer,
            "post_processor": bos.filter(|_| adds_bos).map(|id| begin_with(tokens[id], id)),
            "decoder": byte_level(true),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": splitting.ignore_merges,
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

fn splitting(name: &str) -> Result<Splitting, ImportError> {
    let plain = |pre_tokenizer| Splitting {
        normalizer: Value::Null,
        pre_tokenizer,
        ignore_merges: false,
        adds_bos: false,
    };
    Ok(match name {
        "gpt-2" => plain(byte_level(true)),
        "smollm" => plain(sequence(
            &json!({"type": "Digits", "individual_digits": true}),
            &byte_level(true),
        )),
        "qwen2" => Splitting {
            normalizer: json!({"type": "NFC"}),
            ..plain(sequence(&words(r"\p{N}"), &byte_level(false)))
        },
        "llama-bpe" | "llama3" | "llama-v3" => Splitting {
            ignore_merges: true,
            adds_bos: true,
            ..plain(sequence(&words(r"\p{N}{1,3}"), &byte_level(false)))
        },
        _ => return Err(ImportError::Splitting { found: name.into() }),
    })
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
