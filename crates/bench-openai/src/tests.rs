//! Every fact is checked against a real HTTP server on the loopback interface.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::post;

use bench_core::backend::{Embedder as _, Purpose};

use super::*;

const KEY: &str = "sk-very-secret";

/// The `Authorization` header and the body of a request.
type Asked = (Option<String>, Value);

/// A server that gives its replies in turn (the last one for ever) and keeps what it was asked.
#[derive(Clone)]
struct Server {
    replies: Arc<Mutex<VecDeque<Canned>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

#[derive(Clone)]
struct Canned {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
    delay: Duration,
}

impl Server {
    async fn start(replies: impl IntoIterator<Item = Canned>) -> (Self, EndpointGenerator) {
        let replies = Arc::new(Mutex::new(replies.into_iter().collect()));
        let server = Self { replies, asked: Arc::default() };
        let router = Router::new()
            .route("/v1/chat/completions", post(answer))
            .route("/v1/embeddings", post(answer))
            .with_state(server.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        (server, generator(&format!("http://{address}/v1/"), 2))
    }

    fn bodies(&self) -> Vec<Value> {
        self.asked.lock().unwrap().iter().map(|(_, body)| body.clone()).collect()
    }
}

async fn answer(State(server): State<Server>, headers: HeaderMap, body: String) -> Response {
    let key = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    server.asked.lock().unwrap().push((key, serde_json::from_str(&body).unwrap()));
    let canned = {
        let mut replies = server.replies.lock().unwrap();
        if replies.len() > 1 { replies.pop_front().unwrap() } else { replies[0].clone() }
    };
    tokio::time::sleep(canned.delay).await;
    let mut response = Response::builder().status(canned.status);
    for (name, value) in canned.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(canned.body)).unwrap()
}

fn canned(status: u16, body: impl Into<String>) -> Canned {
    Canned { status, headers: Vec::new(), body: body.into(), delay: Duration::ZERO }
}

fn stream(chunks: &[Value]) -> Canned {
    let lines: Vec<String> = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    let body = format!("{}data: [DONE]\n\n", lines.concat());
    Canned { headers: vec![("content-type", "text/event-stream")], ..canned(200, body) }
}

fn paris() -> Canned {
    stream(&[
        json!({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": null}]}),
        json!({"choices": [{"delta": {"content": "Pa"}, "finish_reason": null}]}),
        json!({"choices": [{"delta": {"content": "ris"}, "finish_reason": "stop"}]}),
        json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}),
    ])
}

fn generator(base_url: &str, max_retries: u32) -> EndpointGenerator {
    let endpoint = Endpoint {
        base_url: base_url.into(),
        model: "toy".into(),
        api_key_env: Some("TOY_KEY".into()),
        timeout_seconds: 5,
        max_retries,
    };
    let mut generator = EndpointGenerator::new(&endpoint, Some(format!("{KEY}\n"))).unwrap();
    generator.backoff = Duration::from_millis(1);
    generator
}

fn request() -> Request {
    Request {
        messages: vec![Message::user("Capital of France?")],
        max_tokens: 8,
        temperature: 0.0,
        top_p: Some(0.9),
        seed: u64::MAX,
        stop: Vec::new(),
        constraint: None,
        top_logprobs: 0,
    }
}

/// Asks once, expects a failure, and returns its class and words after checking them for the key.
#[track_caller]
fn failed(outcome: Result<Completion, BackendError>) -> (BackendErrorKind, String) {
    let error = outcome.unwrap_err();
    assert!(!format!("{error:?} {}", error.chain()).contains(KEY), "{error:?}");
    (error.kind, error.chain())
}

#[tokio::test]
async fn a_streamed_answer_has_text_counts_and_time_to_first_token() {
    let (server, generator) = Server::start([paris()]).await;
    let completion = generator.generate(&request()).await.unwrap();
    assert_eq!((completion.text.as_str(), completion.finish.as_str()), ("Paris", "stop"));
    assert_eq!((completion.tokens_in, completion.tokens_out), (7, 2));
    assert!(completion.first_token_ms.unwrap() <= completion.latency_ms);
    let (key, body) = server.asked.lock().unwrap()[0].clone();
    assert_eq!(key.as_deref(), Some("Bearer sk-very-secret"));
    assert_eq!(
        body,
        json!({
            "model": "toy", "messages": [{"role": "user", "content": "Capital of France?"}],
            "temperature": 0.0, "seed": i64::MAX, "max_tokens": 8, "stream": true,
            "stream_options": {"include_usage": true},
        })
    );
}

#[tokio::test]
async fn every_setting_reaches_the_endpoint() {
    let (server, generator) = Server::start([paris()]).await;
    let schema = json!({"type": "object"});
    let mut asked = request();
    asked.temperature = 0.7;
    asked.stop = vec!["\n".into()];
    asked.top_logprobs = 3;
    asked.constraint = Some(Constraint::JsonSchema(schema.clone()));
    generator.generate(&asked).await.unwrap();
    let body = &server.bodies()[0];
    assert_eq!((&body["temperature"], &body["top_p"]), (&json!(0.7), &json!(0.9)));
    assert_eq!((&body["stop"], &body["top_logprobs"]), (&json!(["\n"]), &json!(3)));
    assert_eq!(body["response_format"]["json_schema"]["schema"], schema);
}

#[tokio::test]
async fn logprobs_come_with_their_alternatives() {
    let token = json!({"token": "A", "logprob": -0.25, "top_logprobs": [{"token": "A", "logprob": -0.25}, {"token": "B", "logprob": -1.5}]});
    let (_server, generator) = Server::start([stream(&[
        json!({"choices": [{"delta": {"content": "A"}, "finish_reason": "length", "logprobs": {"content": [token]}}],
               "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
    ])])
    .await;
    let completion = generator.generate(&request()).await.unwrap();
    assert_eq!(completion.finish, "length");
    assert_eq!(
        (completion.logprobs[0].token.as_str(), completion.logprobs[0].logprob),
        ("A", -0.25)
    );
    assert_eq!(completion.logprobs[0].top[1], ("B".to_owned(), -1.5));
}

#[tokio::test]
async fn an_endpoint_that_does_not_stream_is_asked_for_whole_answers() {
    let whole = json!({"choices": [{"message": {"role": "assistant", "content": "Paris"}, "finish_reason": "stop"}],
                       "usage": {"prompt_tokens": 7, "completion_tokens": 2}});
    let (server, generator) = Server::start([canned(200, whole.to_string())]).await;
    for _ in 0..2 {
        let completion = generator.generate(&request()).await.unwrap();
        assert_eq!((completion.text.as_str(), completion.tokens_in), ("Paris", 7));
        assert_eq!(completion.first_token_ms, None);
    }
    let streamed: Vec<bool> =
        server.bodies().iter().map(|body| body.get("stream").is_some()).collect();
    assert_eq!(streamed, [true, false, false]);
}

#[tokio::test]
async fn a_stream_without_token_counts_is_asked_for_again_whole() {
    let uncounted =
        stream(&[json!({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]})]);
    let whole = json!({"choices": [{"message": {"content": "y"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}});
    let (_server, generator) = Server::start([uncounted, canned(200, whole.to_string())]).await;
    let completion = generator.generate(&request()).await.unwrap();
    assert_eq!((completion.text.as_str(), completion.tokens_in), ("y", 3));
}

#[tokio::test]
async fn an_answer_without_usage_has_unknown_counts() {
    let answer = |usage: &Value| json!({"choices": [{"message": {"content": "y"}, "finish_reason": "stop"}], "usage": usage});
    for usage in [Value::Null, json!({"prompt_tokens": 0, "completion_tokens": 5})] {
        let whole = answer(&usage).to_string();
        let (_server, generator) =
            Server::start([canned(200, whole.clone()), canned(200, whole)]).await;
        let completion = generator.generate(&request()).await.unwrap();
        assert_eq!((completion.text.as_str(), completion.tokens_in), ("y", 0));
        assert_eq!(completion.tokens_out, 0);
    }
}

#[tokio::test]
async fn choices_travel_as_a_schema_and_come_back_as_text() {
    let say = |text: &str| {
        stream(&[
            json!({"choices": [{"delta": {"content": text}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}),
        ])
    };
    let (server, generator) = Server::start([say(r#"{"choice": "no"}"#), say("perhaps")]).await;
    let mut asked = request();
    asked.constraint = Some(Constraint::Choices(vec!["yes".into(), "no".into()]));
    assert_eq!(generator.generate(&asked).await.unwrap().text, "no");
    let schema = &server.bodies()[0]["response_format"]["json_schema"]["schema"];
    assert_eq!(schema["properties"]["choice"]["enum"], json!(["yes", "no"]));
    let (kind, words) = failed(generator.generate(&asked).await);
    assert_eq!(kind, BackendErrorKind::Rejected);
    assert!(words.contains("perhaps"), "{words}");
}

#[tokio::test]
async fn a_regex_is_refused_without_asking() {
    let (server, generator) = Server::start([paris()]).await;
    let mut asked = request();
    asked.constraint = Some(Constraint::Regex("a+".into()));
    let (kind, words) = failed(generator.generate(&asked).await);
    assert_eq!(kind, BackendErrorKind::Rejected);
    assert!(words.contains("`regex`"), "{words}");
    assert!(server.bodies().is_empty());
}

#[tokio::test]
async fn a_rate_limit_is_waited_out_for_as_long_as_the_endpoint_says() {
    let limit = Canned { headers: vec![("retry-after", "0.3")], ..canned(429, "slow down") };
    let (server, generator) = Server::start([limit, paris()]).await;
    let start = Instant::now();
    let completion = generator.generate(&request()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    assert!(completion.latency_ms < 300.0, "latency is that of the try that succeeded");
    assert_eq!(server.bodies().len(), 2);
}

#[tokio::test]
async fn a_rate_limit_of_an_hour_is_given_up_at_once() {
    let limit = Canned { headers: vec![("retry-after", "3600")], ..canned(429, "tomorrow") };
    let (server, generator) = Server::start([limit]).await;
    let (kind, words) = failed(generator.generate(&request()).await);
    assert_eq!(kind, BackendErrorKind::Transient);
    assert!(words.contains("tomorrow"), "{words}");
    assert_eq!(server.bodies().len(), 1);
}

#[tokio::test]
async fn server_errors_are_tried_again_until_the_tries_are_spent() {
    let (server, generator) = Server::start([canned(503, "<h1>busy</h1>")]).await;
    let (kind, words) = failed(generator.generate(&request()).await);
    assert_eq!(kind, BackendErrorKind::Transient);
    assert!(
        words.contains("503") && words.contains("busy") && words.contains("tried 3 times"),
        "{words}"
    );
    assert_eq!(server.bodies().len(), 3);
}

#[tokio::test]
async fn what_can_never_succeed_is_not_tried_again() {
    let bad = json!({"error": {"message": "context too long"}}).to_string();
    let quota = json!({"error": {"message": "pay", "code": "insufficient_quota"}}).to_string();
    for (status, body, expected) in [
        (400, bad.as_str(), BackendErrorKind::Rejected),
        (404, "no such page", BackendErrorKind::Rejected),
        (422, "", BackendErrorKind::Rejected),
        (401, "wrong key sk-very-secret", BackendErrorKind::Fatal),
        (403, "not you", BackendErrorKind::Fatal),
        (429, quota.as_str(), BackendErrorKind::Fatal),
    ] {
        let (server, generator) = Server::start([canned(status, body)]).await;
        let (kind, words) = failed(generator.generate(&request()).await);
        assert_eq!(kind, expected, "{words}");
        assert!(words.contains(&status.to_string()), "{words}");
        assert_eq!(server.bodies().len(), 1, "{words}");
    }
}

#[tokio::test]
async fn garbage_is_rejected_and_quoted() {
    let (_server, whole) = Server::start([canned(200, "<html>hello</html>")]).await;
    let (kind, words) = failed(whole.generate(&request()).await);
    assert_eq!(kind, BackendErrorKind::Rejected);
    assert!(words.contains("<html>hello</html>"), "{words}");
    let (_server, streamed) = Server::start([canned(200, "data: {oops\n\n")]).await;
    let (kind, words) = failed(streamed.generate(&request()).await);
    assert_eq!(kind, BackendErrorKind::Rejected);
    assert!(words.contains("{oops"), "{words}");
}

#[tokio::test]
async fn an_answer_without_choices_is_rejected() {
    for reply in [canned(200, r#"{"choices": []}"#), stream(&[json!({"choices": []})])] {
        let (_server, generator) = Server::start([reply]).await;
        let (kind, words) = failed(generator.generate(&request()).await);
        assert_eq!(kind, BackendErrorKind::Rejected);
        assert!(words.contains("no choices"), "{words}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_again() {
    let cut = stream(&[json!({"choices": [{"delta": {"content": "Pa"}, "finish_reason": null}]})]);
    let overloaded = stream(&[json!({"error": {"code": 502, "message": "overloaded"}})]);
    let (server, generator) = Server::start([cut, overloaded, paris()]).await;
    assert_eq!(generator.generate(&request()).await.unwrap().text, "Paris");
    assert_eq!(server.bodies().len(), 3);
}

#[tokio::test]
async fn a_slow_endpoint_is_given_up_at_the_deadline() {
    let slow = Canned { delay: Duration::from_secs(10), ..paris() };
    let (server, mut generator) = Server::start([slow]).await;
    generator.timeout = Duration::from_millis(50);
    let (kind, words) = failed(generator.generate(&request()).await);
    assert_eq!(kind, BackendErrorKind::Transient);
    assert!(words.contains("`timeout_seconds`"), "{words}");
    assert_eq!(server.bodies().len(), 3);
}

#[tokio::test]
async fn a_refused_connection_is_transient_and_says_what_to_check() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (kind, words) =
        failed(generator(&format!("http://{address}/v1"), 1).generate(&request()).await);
    assert_eq!(kind, BackendErrorKind::Transient);
    assert!(words.contains("`base_url`") && words.contains("tried 2 times"), "{words}");
}

#[tokio::test]
async fn without_a_key_no_authorization_is_sent() {
    let (server, with_key) = Server::start([paris()]).await;
    let endpoint = Endpoint {
        base_url: with_key.id.rsplit(' ').next().unwrap().into(),
        model: "toy".into(),
        api_key_env: None,
        timeout_seconds: 5,
        max_retries: 0,
    };
    EndpointGenerator::new(&endpoint, None).unwrap().generate(&request()).await.unwrap();
    assert_eq!(server.asked.lock().unwrap()[0].0, None);
}

#[tokio::test]
async fn a_model_behind_an_endpoint_neither_counts_tokens_nor_shows_logits() {
    let generator = generator("http://localhost:1/v1", 0);
    assert_eq!(generator.count_tokens(&[Message::user("x")]).unwrap(), None);
    assert_eq!(generator.probe(&[]).await.unwrap_err().kind, BackendErrorKind::Rejected);
    assert_eq!(generator.id(), "toy at http://localhost:1/v1");
}

#[test]
fn the_key_is_never_shown() {
    let generator = generator("http://localhost:1/v1", 0);
    assert!(!format!("{generator:?}").contains(KEY));
    let failure = Failure::rejected(format!("you sent {KEY}"));
    assert_eq!(error(failure, 0, &generator.key).source.to_string(), "you sent [key]");
    let mut answer = format!("I was shown {KEY}");
    hide_key(&mut answer, KEY);
    assert_eq!(answer, "I was shown [key]");
}

/// An embedder of two numbers that talks to a server.
async fn embedder(replies: impl IntoIterator<Item = Canned>) -> (Server, EndpointEmbedder) {
    let (server, generator) = Server::start(replies).await;
    let settings = bench_core::spec::EndpointEmbedder {
        base_url: generator.id.rsplit(' ').next().unwrap().into(),
        model: "toy".into(),
        dimension: 2,
        max_length: 100,
        query_prefix: "query: ".into(),
        passage_prefix: String::new(),
        api_key_env: Some("TOY_KEY".into()),
        timeout_seconds: 5,
        max_retries: 2,
    };
    (server, EndpointEmbedder::new(&settings, Some(KEY.into())).unwrap().hasty())
}

fn embeddings(vectors: &[(usize, &[f64])]) -> Canned {
    let item = |(index, embedding): &(usize, &[f64])| json!({"object": "embedding", "index": index, "embedding": embedding});
    let data: Vec<Value> = vectors.iter().map(item).collect();
    canned(200, json!({"object": "list", "data": data, "model": "toy"}).to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_become_vectors_of_unit_length_in_their_order() {
    let (server, embedder) = embedder([embeddings(&[(1, &[0.0, 2.0]), (0, &[3.0, 4.0])])]).await;
    let texts = ["one".to_owned(), "two".to_owned()];
    let found = embedder.embed(Purpose::Query, &texts).unwrap();
    assert_eq!(found, [[0.6, 0.8], [0.0, 1.0]]);
    let (key, body) = server.asked.lock().unwrap()[0].clone();
    assert_eq!(key.as_deref(), Some("Bearer sk-very-secret"));
    let expect =
        json!({"model": "toy", "input": ["query: one", "query: two"], "encoding_format": "float"});
    assert_eq!(body, expect);
    embedder.embed(Purpose::Passage, &texts).unwrap();
    assert_eq!(server.bodies()[1]["input"], json!(["one", "two"]));
    // The longer prefix, three characters a token, is taken off.
    assert_eq!((embedder.dimension(), embedder.window()), (2, 97));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_texts_are_asked_for_in_batches_and_a_busy_endpoint_again() {
    let vectors: Vec<(usize, &[f64])> = (0..32).map(|at| (at, &[1.0, 0.0][..])).collect();
    let replies = [embeddings(&vectors), canned(503, "busy"), embeddings(&vectors[..8])];
    let (server, embedder) = embedder(replies).await;
    let texts: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    assert_eq!(embedder.embed(Purpose::Passage, &texts).unwrap().len(), 40);
    let sizes: Vec<usize> =
        server.bodies().iter().map(|body| body["input"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [32, 8, 8]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embeddings_that_cannot_be_used_are_named() {
    for (reply, expect) in [
        (embeddings(&[(0, &[1.0, 0.0, 0.0])]), "gives 3 numbers per text and `dimension` says 2"),
        (embeddings(&[]), "left out the embedding of a text"),
        (embeddings(&[(7, &[1.0, 0.0])]), "an embedding of text 7, and was given 1"),
        (canned(200, "<html>hello</html>"), "no list of embeddings"),
        (canned(401, "wrong key sk-very-secret"), "check the key"),
    ] {
        let (_server, embedder) = embedder([reply]).await;
        let error = embedder.embed(Purpose::Passage, &["x".to_owned()]).unwrap_err().chain();
        assert!(error.contains(expect) && !error.contains(KEY), "{error}");
    }
}

#[test]
fn addresses_and_keys_that_cannot_work_are_refused_without_showing_them() {
    let check = |base_url: &str, key: &str, expect: &str| {
        let endpoint = Endpoint {
            base_url: base_url.into(),
            model: "toy".into(),
            api_key_env: Some("TOY_KEY".into()),
            timeout_seconds: 5,
            max_retries: 0,
        };
        let error = EndpointGenerator::new(&endpoint, Some(key.into())).unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Fatal);
        assert!(error.chain().contains(expect), "{}", error.chain());
        assert!(!error.chain().contains("hush"), "{}", error.chain());
    };
    check("localhost:8000", "", "`base_url` is not an HTTP address");
    check("file:///v1", "", "`base_url` is not an HTTP address");
    check("http://me:hush@localhost/v1", "", "`http://localhost/v1`");
    check("http://localhost/v1?api_key=hush", "", "`http://localhost/v1`");
    check("http://localhost/v1", "hu\nsh hush", "`TOY_KEY`");
}

#[test]
fn pauses_double_and_stay_within_a_minute() {
    for tries in 0..40 {
        let pause = backoff(BACKOFF, tries);
        let full = BACKOFF.saturating_mul(2_u32.saturating_pow(tries)).min(LONGEST_PAUSE);
        assert!(pause >= full / 2 && pause <= full, "{tries}: {pause:?}");
    }
}
