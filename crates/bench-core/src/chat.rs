//! Chat messages and how a model's own template turns them into one prompt text.
//!
//! Training and serving both call [`ChatTemplate::render`] and tokenise its result, so a
//! fine-tuned arm is asked with exactly the text it was trained on.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

use minijinja::{Environment, Error, ErrorKind, context};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Standing instructions.
    System,
    /// The person or program asking.
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A system turn.
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: Role::System, content: content.into() }
    }

    /// A user turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: Role::User, content: content.into() }
    }

    /// An assistant turn.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: Role::Assistant, content: content.into() }
    }
}

/// The token that a grammar engine ends a constrained answer with, among the special tokens of a
/// tokenizer: the last of the names it knows.
pub fn grammar_end(special: &BTreeMap<u32, String>) -> Option<u32> {
    const NAMES: [&str; 5] =
        ["</s>", "<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<eos>"];
    let known = special.iter().filter(|(_, token)| NAMES.contains(&token.as_str()));
    known.map(|(id, _)| *id).max()
}

/// The ids that end an answer: `named` ones (the end of a turn and the end of a sequence), what
/// `generation_config.json` and `config.json` name, and what ends a constrained answer. An
/// ordinary token may be the beginning of a longer one, so only special ones end an answer.
pub fn ends(
    generation: &serde_json::Value,
    config: &serde_json::Value,
    named: &[u32],
    special: &BTreeMap<u32, String>,
) -> Vec<u32> {
    let configured = [generation, config].into_iter().flat_map(named_ends);
    let mut ends = Vec::new();
    for id in named.iter().copied().chain(configured).chain(grammar_end(special)) {
        if special.contains_key(&id) && !ends.contains(&id) {
            ends.push(id);
        }
    }
    ends
}

/// The ids that a configuration says end an answer: one, several or none.
fn named_ends(config: &serde_json::Value) -> Vec<u32> {
    let ids = &config["eos_token_id"];
    let ids = ids.as_array().map_or(std::slice::from_ref(ids), Vec::as_slice);
    ids.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

/// Why a tokenizer of so many `tokens`, `special` among them, cannot be that of the model of a
/// `config.json`: none of the tokens that end its answers is special there, or more than a quarter of the model's
/// tokens are unknown to it (models have some more than their tokenizers, to fill up a round number). In a
/// `generation_config.json`, where there is one, each end must be special.
pub fn foreign_tokenizer(
    config: &serde_json::Value,
    generation: &serde_json::Value,
    special: &BTreeMap<u32, String>,
    tokens: usize,
) -> Option<String> {
    let ends = named_ends(config);
    if !ends.is_empty() && !ends.iter().any(|id| special.contains_key(id)) {
        let ends = ends.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        return Some(format!(
            "config.json says that token {ends} ends an answer, which is no special token of tokenizer.json"
        ));
    }
    if let Some(id) = named_ends(generation).iter().find(|id| !special.contains_key(id)) {
        return Some(format!(
            "generation_config.json says that token {id} ends an answer, which is no special token of tokenizer.json"
        ));
    }
    let vocabulary = config["vocab_size"].as_u64().unwrap_or_default();
    let few = (tokens as u64) < vocabulary - vocabulary / 4;
    few.then(|| format!("tokenizer.json has {tokens} tokens, and the model {vocabulary}"))
}

/// The first token, by text, that two tokenizers give different ids or that one of them lacks.
pub fn differing_token<S: BuildHasher>(
    base: &HashMap<String, u32, S>,
    other: &HashMap<String, u32, S>,
) -> Option<String> {
    let first = |a: &HashMap<String, u32, S>, b: &HashMap<String, u32, S>| {
        a.iter().filter(|(text, id)| b.get(*text) != Some(id)).map(|(text, _)| text.clone()).min()
    };
    let text = first(base, other).into_iter().chain(first(other, base)).min()?;
    let id = |of: &HashMap<String, u32, S>| of.get(&text).map_or("none".into(), u32::to_string);
    Some(format!("`{text}` is token {} there, and {} of the base", id(other), id(base)))
}

/// A model's chat template (the Jinja text in `tokenizer_config.json` or `chat_template.jinja`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplate {
    /// The Jinja source.
    pub source: String,
    /// The text of the beginning-of-sequence token, or empty.
    pub bos_token: String,
    /// The text of the end-of-sequence token, or empty.
    pub eos_token: String,
    /// The text of the token that ends the assistant's turn: `eos_token` unless
    /// [`Self::with_turn_end`] found another.
    pub turn_end: String,
}

impl ChatTemplate {
    /// Reads the template of a Hugging Face folder: the text of `tokenizer_config.json`, and of
    /// `chat_template.jinja` where the folder has one (it wins).
    ///
    /// # Errors
    /// Text that is not JSON, or a folder without any chat template.
    pub fn from_folder(tokenizer_config: &str, jinja: Option<&str>) -> Result<Self, String> {
        let config: serde_json::Value = serde_json::from_str(tokenizer_config)
            .map_err(|error| format!("tokenizer_config.json is not JSON: {error}"))?;
        // A token is its text, or a map with the text under `content`.
        let token = |key: &str| {
            let value = &config[key];
            value.as_str().or_else(|| value["content"].as_str()).unwrap_or_default().to_owned()
        };
        let source = jinja
            .or_else(|| config["chat_template"].as_str())
            .ok_or("the model has no chat template; use an instruction-tuned model")?;
        Ok(Self {
            source: source.to_owned(),
            bos_token: token("bos_token"),
            eos_token: token("eos_token"),
            turn_end: token("eos_token"),
        })
    }

    /// The same template with the end of a turn that it writes itself: the one of these tokens that
    /// follows what the assistant said. Gemma ends turns with `<end_of_turn>` and sequences with `<eos>`.
    #[must_use]
    pub fn with_turn_end(mut self, special: &BTreeMap<u32, String>) -> Self {
        const SAID: &str = "\u{1}said\u{1}";
        let turns = [Message::user("?"), Message::assistant(SAID)];
        let text = self.lay_out(&turns, false).unwrap_or_default();
        let after = text.rsplit_once(SAID).map_or("", |(_, after)| after.trim_start());
        let written = special.values().filter(|token| after.starts_with(token.as_str()));
        if let Some(end) = written.max_by_key(|token| token.len()) {
            self.turn_end.clone_from(end);
        }
        self
    }

    /// What a training example learns to write after the prompt: the completion and the token that
    /// ends the turn. Tokenise it apart from the prompt, so that the prompt's ids are those of
    /// serving.
    pub fn completion(&self, completion: &str) -> String {
        format!("{completion}{}", self.turn_end)
    }

    /// The prompt text for `messages`, ending where the assistant starts to speak.
    ///
    /// # Errors
    /// A template that is not Jinja, or that refuses the messages (`raise_exception`).
    pub fn render(&self, messages: &[Message]) -> Result<String, Error> {
        self.lay_out(messages, true)
    }

    fn lay_out(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Error> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template("chat", &self.source)?;
        environment.get_template("chat")?.render(context! {
            messages => messages,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
            add_generation_prompt,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn template(source: &str) -> ChatTemplate {
        let (bos_token, eos_token) = ("<s>".to_owned(), "</s>".to_owned());
        ChatTemplate { source: source.into(), bos_token, turn_end: eos_token.clone(), eos_token }
    }

    #[test]
    fn a_chatml_prompt_ends_where_the_assistant_starts() {
        let text = template(CHATML).render(&[Message::user("Hi")]).unwrap();
        assert_eq!(
            text,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn a_turn_ends_as_the_template_ends_it() {
        let special: BTreeMap<u32, String> =
            ["<s>", "</s>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|endoftext|>"]
                .into_iter()
                .zip(0..)
                .map(|(token, id)| (id, token.to_owned()))
                .collect();
        let end = |source: &str| template(source).with_turn_end(&special).completion("Yes.");
        assert_eq!(end(CHATML), "Yes.<|im_end|>");
        let gemma = "{% for message in messages %}<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}";
        assert_eq!(end(gemma), "Yes.<end_of_turn>");
        let phi = "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ '<|endoftext|>' }}{% endif %}";
        assert_eq!(end(phi), "Yes.<|end|>");
        let mistral = "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}";
        assert_eq!(end(mistral), "Yes.</s>");
        // No end of its own, and a template that takes no answers.
        assert_eq!(
            end("{% for message in messages %}{{ message['content'] }}\n{% endfor %}"),
            "Yes.</s>"
        );
        assert_eq!(end("{{ raise_exception('no') }}"), "Yes.</s>");
    }

    #[test]
    fn a_tokenizer_of_another_model_is_known_by_its_ends_and_its_size() {
        let special = BTreeMap::from([(1, "<s>".to_owned()), (2, "</s>".to_owned())]);
        let none = serde_json::Value::Null;
        let said =
            |config: serde_json::Value, tokens| foreign_tokenizer(&config, &none, &special, tokens);
        let config = |ends| serde_json::json!({ "eos_token_id": ends, "vocab_size": 100 });
        assert_eq!(said(config(serde_json::json!(2)), 98), None);
        assert_eq!(said(config(serde_json::json!([7, 2])), 75), None);
        assert_eq!(said(config(serde_json::Value::Null), 100), None);
        assert!(said(config(serde_json::json!([7, 8])), 100).unwrap().contains("token 7, 8 ends"));
        assert!(said(config(serde_json::json!(2)), 74).unwrap().contains("has 74 tokens"));
        let generation = serde_json::json!({ "eos_token_id": [2, 9] });
        let said = foreign_tokenizer(&config(serde_json::json!(2)), &generation, &special, 100);
        assert!(said.unwrap().starts_with("generation_config.json says that token 9 ends"));
    }

    #[test]
    fn the_first_token_that_differs_is_named() {
        let map = |tokens: &[(&str, u32)]| -> HashMap<String, u32> {
            tokens.iter().map(|(text, id)| ((*text).to_owned(), *id)).collect()
        };
        let base = map(&[("a", 0), ("b", 1), ("c", 2)]);
        assert_eq!(differing_token(&base, &base), None);
        let swapped = differing_token(&base, &map(&[("a", 0), ("b", 2), ("c", 1)])).unwrap();
        assert_eq!(swapped, "`b` is token 2 there, and 1 of the base");
        let added = differing_token(&base, &map(&[("a", 0), ("b", 1), ("c", 2), ("d", 3)]));
        assert_eq!(added.unwrap(), "`d` is token 3 there, and none of the base");
    }

    #[test]
    fn python_string_methods_work_as_templates_expect() {
        let text = template("{{ messages[0]['content'].strip() }}{{ bos_token }}")
            .render(&[Message::user("  x ")])
            .unwrap();
        assert_eq!(text, "x<s>");
    }

    #[test]
    fn a_folder_gives_its_template_and_tokens() {
        let config =
            r#"{"chat_template":"a","bos_token":null,"eos_token":{"content":"<|im_end|>"}}"#;
        let template = ChatTemplate::from_folder(config, None).unwrap();
        assert_eq!(
            (template.source.as_str(), template.completion("Yes.").as_str()),
            ("a", "Yes.<|im_end|>")
        );
        assert_eq!(ChatTemplate::from_folder(config, Some("b")).unwrap().source, "b");
        assert!(ChatTemplate::from_folder("{}", None).is_err());
    }

    #[test]
    fn a_template_can_refuse_the_messages() {
        let error = template("{{ raise_exception('no system turns') }}").render(&[]).unwrap_err();
        assert!(error.to_string().contains("no system turns"), "{error}");
    }
}
