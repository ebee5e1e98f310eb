//! Does an endpoint hold its answers to a JSON schema? Servers that do not know `response_format`
//! ignore it without a word, so they are asked once, before anything else is paid for.

use bench_core::backend::{BackendError, Constraint, Request};
use bench_core::chat::Message;
use bench_core::record::Outcome;
use serde_json::json;

use crate::backends::{Place, ResolvedModel};
use crate::desk::{Call, Desk};
use crate::run::RunError;

/// What nobody says who is greeted, unless a schema leaves no other word.
const WORD: &str = "marmalade";

/// Asks a model behind an endpoint for an answer that only a schema can bring about. The reply is
/// kept like an answer, so that a second run does not ask. Models elsewhere are not asked.
///
/// # Errors
/// An endpoint that ignores the schema or refuses the request.
pub(crate) fn check_schema(
    model: &ResolvedModel,
    name: (&str, &str),
    desk: &mut Desk<'_>,
) -> Result<(), RunError> {
    let Place::Endpoint(endpoint) = &model.place else { return Ok(()) };
    let schema = json!({
        "type": "object",
        "properties": { "word": { "type": "string", "enum": [WORD] } },
        "required": ["word"],
        "additionalProperties": false,
    });
    let request = Request {
        messages: vec![Message::user("Good morning!")],
        max_tokens: 32,
        temperature: 0.0,
        top_p: None,
        seed: 0,
        stop: Vec::new(),
        constraint: Some(Constraint::JsonSchema(schema)),
        top_logprobs: 0,
    };
    let call = Call::new(model, None, request, None, name)?;
    desk.ask(std::slice::from_ref(&call))?;
    let (what, said) = match desk.outcome(&call.key) {
        // Nothing is asked when a run is only scored, or told to stop.
        None => return Ok(()),
        Some(Outcome::Answered(answer)) => {
            let reply: serde_json::Value = serde_json::from_str(&answer.text).unwrap_or_default();
            if reply == json!({ "word": WORD }) {
                return Ok(());
            }
            let start: String = answer.text.chars().take(80).collect();
            ("ignores the JSON schema of a request", format!("it said `{start}`"))
        }
        Some(Outcome::Failed { error }) => {
            let error = format!("{error}; `bench run --retry-failed` asks again");
            ("cannot be asked for JSON", error)
        }
    };
    let (set, arm) = name;
    let message = format!(
        "arm `{arm}` on set `{set}`: the endpoint of `{}` {what} ({said}), so its answers cannot be held to a constraint; use a server that knows `response_format`, a local model, or `constraint: free`",
        endpoint.model
    );
    Err(BackendError::fatal("endpoint", message).into())
}
