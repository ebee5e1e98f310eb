//! Chat messages and how a model's own template turns them into one prompt text.
//!
//! Training and serving both call [`ChatTemplate::render`] and tokenise its result, so a
//! fine-tuned arm is asked with exactly the text it was trained on.

use std::collections::BTreeMap;

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

/// The ids that end an answer: `turn_end`, the text of which is the template's end-of-sequence token,
/// what `generation_config.json` and `config.json` name, and what ends a constrained answer. An
/// ordinary token may be the beginning of a longer one, so only special ones end an answer.
pub fn ends(
    generation: &serde_json::Value,
    config: &serde_json::Value,
    turn_end: u32,
    special: &BTreeMap<u32, String>,
) -> Vec<u32> {
    let named = [&generation["eos_token_id"], &config["eos_token_id"]]
        .into_iter()
        .flat_map(|ids| ids.as_array().cloned().unwrap_or_else(|| vec![ids.clone()]))
        .filter_map(|id| u32::try_from(id.as_u64()?).ok());
    let mut ends = Vec::new();
    for id in std::iter::once(turn_end).chain(named).chain(grammar_end(special)) {
        if special.contains_key(&id) && !ends.contains(&id) {
            ends.push(id);
        }
    }
    ends
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
        })
    }

    /// What a training example learns to write after the prompt: the completion and the token that
    /// ends the turn. Tokenise it apart from the prompt, so that the prompt's ids are those of
    /// serving.
    pub fn completion(&self, completion: &str) -> String {
        format!("{completion}{}", self.eos_token)
    }

    /// The prompt text for `messages`, ending where the assistant starts to speak.
    ///
    /// # Errors
    /// A template that is not Jinja, or that refuses the messages (`raise_exception`).
    pub fn render(&self, messages: &[Message]) -> Result<String, Error> {
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
            add_generation_prompt => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate { source: source.into(), bos_token: "<s>".into(), eos_token: "</s>".into() }
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
