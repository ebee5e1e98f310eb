//! An OpenAI-compatible endpoint, served on loopback by a few lines of HTTP.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use crate::Scratch;

/// Serves until the process ends: what `reply` makes of a request's path and body.
fn serve(reply: fn(&str, &str) -> (u16, String)) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, reply));
        }
    });
    port
}

fn answer(mut stream: TcpStream, reply: fn(&str, &str) -> (u16, String)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    let mut length = 0;
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let path = first.split_whitespace().nth(1).unwrap_or_default();
    let (status, text) = reply(path, &String::from_utf8_lossy(&body));
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        if text.starts_with("data:") { "text/event-stream" } else { "application/json" },
        text.len()
    )
    .unwrap();
}

fn says_brindal(path: &str, body: &str) -> (u16, String) {
    assert_eq!(path, "/v1/chat/completions");
    let request: serde_json::Value = serde_json::from_str(body).unwrap();
    let usage =
        serde_json::json!({ "prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10 });
    if request["stream"] == true {
        let chunk = serde_json::json!({ "id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{ "index": 0, "delta": { "role": "assistant", "content": "Brindal" }, "finish_reason": "stop" }] });
        let last = serde_json::json!({ "id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [], "usage": usage });
        return (200, format!("data: {chunk}\n\ndata: {last}\n\ndata: [DONE]\n\n"));
    }
    let whole = serde_json::json!({ "id": "1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage,
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": "Brindal" }, "finish_reason": "stop" }] });
    (200, whole.to_string())
}

fn garbage(_: &str, _: &str) -> (u16, String) {
    (200, "<html>hello</html>".into())
}

fn refuses(_: &str, _: &str) -> (u16, String) {
    (
        401,
        "{\"error\":{\"message\":\"bad key\",\"type\":\"auth\",\"param\":null,\"code\":null}}"
            .into(),
    )
}

fn experiment(port: u16) -> Scratch {
    let scratch = Scratch::new();
    scratch.write(
        "x.yaml",
        &format!(
            "version: 1
models: {{ m: {{ endpoint: {{ base_url: 'http://127.0.0.1:{port}/v1', model: m, api_key_env: TEST_KEY, max_retries: 0, timeout_seconds: 5 }} }} }}
eval_sets: [{{ name: facts, path: eval.jsonl, corpus: corpus.jsonl, scorers: [exact_match] }}]
embedder: hashing
arms: [{{ name: zero, model: m, strategy: prompt }}, {{ name: rag, model: m, strategy: {{ rag: {{ retriever: bm25 }} }} }}]
compare: {{ baseline: zero }}
prices: {{ date: 2026-11-21, models: {{ m: {{ input: 1, output: 2 }} }} }}
"
        ),
    );
    scratch
}

const SECRET: &str = "sk-very-secret-4711";

fn run(scratch: &Scratch) -> crate::Ran {
    let output = scratch.command(&["run", "x.yaml"]).env("TEST_KEY", SECRET).output().unwrap();
    let ran = crate::Ran::from(output);
    assert!(!ran.err.contains(SECRET) && !ran.out.contains(SECRET), "the key was shown");
    for folder in ["runs", "reports"] {
        if scratch.path().join(folder).exists() {
            for (path, bytes) in scratch.files(folder) {
                let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
                assert!(!found, "the key is in {}", path.display());
            }
        }
    }
    ran
}

#[test]
fn an_endpoint_answers_and_its_tokens_are_priced() {
    let scratch = experiment(serve(says_brindal));
    let ran = run(&scratch);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.out.contains("24 trials (24 answered now), 0 failed"), "{}", ran.out);
    let summary = String::from_utf8(scratch.read("reports/x/tables/summary.csv")).unwrap();
    assert!(summary.contains("cost"), "{summary}");
}

/// Embeds a text as the counts of two letters.
fn embeds(path: &str, body: &str) -> (u16, String) {
    if path != "/v1/embeddings" {
        return says_brindal(path, body);
    }
    let request: serde_json::Value = serde_json::from_str(body).unwrap();
    let count = |text: &str, letter: char| text.chars().filter(|c| *c == letter).count() + 1;
    let texts = request["input"].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
    let data: Vec<_> = texts
        .enumerate()
        .map(|(index, text)| serde_json::json!({ "index": index, "embedding": [count(text, 'e'), count(text, 'o')] }))
        .collect();
    (200, serde_json::json!({ "data": data }).to_string())
}

#[test]
fn an_endpoint_embeds_once_and_says_when_it_cannot() {
    let port = serve(embeds);
    let scratch = experiment(port);
    let embedder = |dimension: u32| {
        format!(
            "embedder: {{ endpoint: {{ base_url: 'http://127.0.0.1:{port}/v1', model: e, dimension: {dimension}, api_key_env: TEST_KEY }} }}"
        )
    };
    scratch.edit("embedder: hashing", &embedder(3));
    scratch.edit("retriever: bm25", "retriever: dense");
    let ran = run(&scratch);
    assert_eq!(ran.code, Some(3), "{ran:#?}");
    assert!(ran.err.contains("`dimension` says 3"), "{}", ran.err);
    scratch.edit(&embedder(3), &embedder(2));
    let ran = run(&scratch);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.out.contains("24 trials (24 answered now), 0 failed"), "{}", ran.out);
}

/// Says the first thing that a schema allows.
fn obeys(_: &str, body: &str) -> (u16, String) {
    let request: serde_json::Value = serde_json::from_str(body).unwrap();
    let schema = &request["response_format"]["json_schema"]["schema"]["properties"];
    let (key, only) = schema.as_object().unwrap().iter().next().unwrap();
    let content = serde_json::json!({ key: only["enum"][0] }).to_string();
    let usage = serde_json::json!({ "prompt_tokens": 9, "completion_tokens": 1 });
    let whole = serde_json::json!({ "usage": usage,
        "choices": [{ "message": { "content": content }, "finish_reason": "stop" }] });
    (200, whole.to_string())
}

#[test]
fn an_endpoint_that_ignores_schemas_is_found_out_before_it_answers() {
    let constrained = |reply| {
        let scratch = experiment(serve(reply));
        scratch.edit(
            "name: zero, model: m,",
            "name: zero, model: m, constraint: { choices: [Brindal, Velm] },",
        );
        scratch
    };
    let ran = run(&constrained(says_brindal));
    assert_eq!(ran.code, Some(3), "{ran:#?}");
    assert!(ran.err.contains("ignores the JSON schema"), "{}", ran.err);

    let scratch = constrained(obeys);
    scratch.edit(", { name: rag, model: m, strategy: { rag: { retriever: bm25 } } }", "");
    let ran = run(&scratch);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.out.contains("12 trials (12 answered now), 0 failed"), "{}", ran.out);
    let again = run(&scratch);
    assert!(again.out.contains("(0 answered now)"), "{}", again.out);
}

#[test]
fn a_garbled_answer_is_a_failed_trial() {
    let ran = run(&experiment(serve(garbage)));
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.out.contains("24 failed"), "{}", ran.out);
}

#[test]
fn a_refused_key_stops_the_run() {
    let ran = run(&experiment(serve(refuses)));
    assert_eq!(ran.code, Some(3), "{ran:#?}");
}

#[test]
fn an_endpoint_that_is_not_there_fails_every_trial_and_keeps_the_run() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ran = run(&experiment(port));
    assert_eq!(ran.code, Some(1), "{ran:#?}");
}

#[test]
fn a_missing_key_is_named_before_anything_is_asked() {
    let scratch = experiment(1);
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    assert!(ran.err.contains("`TEST_KEY` is not set"), "{}", ran.err);
}
