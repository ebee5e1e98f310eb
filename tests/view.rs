//! `bench view` as a program: what it serves, what it writes, what it warns of.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};

use crate::Scratch;

/// A server that ends with the test.
pub(crate) struct View {
    child: Child,
    /// Host and port.
    pub(crate) site: String,
}

impl View {
    pub(crate) fn start(scratch: &Scratch, listen: &str) -> Self {
        let mut child = scratch
            .command(&["view", "--listen", listen])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let site = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        Self { site: site.unwrap_or_else(|| panic!("{line}")).to_owned(), child }
    }

    /// Everything that it said on standard error.
    fn end(mut self) -> String {
        self.child.kill().unwrap();
        let mut said = String::new();
        self.child.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
        said
    }

    /// Status and body.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.site).unwrap();
        let (site, length) = (&self.site, body.len());
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {site}\r\nOrigin: http://{site}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_report_is_served_and_a_label_kept() {
    let scratch = Scratch::new();
    scratch.bench(&["run", "x.yaml"]);
    let view = View::start(&scratch, "127.0.0.1:0");
    assert!(view.ask("GET", "/", "").1.contains("<a href=\"/runs/x/\">x</a>"));
    let page = view.ask("GET", "/compare?a=x&b=x", "").1;
    assert!(page.contains("facts") && page.contains("/assets/report.css"), "{page}");
    let (status, page) = view.ask("GET", "/runs/x/", "");
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("bench-view") && page.contains("/assets/report.js"));
    assert!(view.ask("GET", "/assets/report.css", "").1.contains("--ink"));
    let label = r#"{"set":"facts","sample":"f0","arm":"rag","kind":"rating","value":4}"#;
    let (status, kept) = view.ask("POST", "/api/runs/x/labels", label);
    assert_eq!(status, 200, "{kept}");
    let labels = String::from_utf8(scratch.read("reports/x/labels.jsonl")).unwrap();
    assert_eq!(bench_core::label::read(&labels).unwrap()[0].score(), Some(0.75));
    let stranger = label.replace("\"rag\"", "\"nobody\"");
    assert_eq!(view.ask("POST", "/api/runs/x/labels", &stranger).0, 404);
    assert_eq!(view.end(), "");
}

#[test]
fn a_run_tells_what_it_did() {
    let scratch = Scratch::new();
    scratch.bench(&["run", "x.yaml"]);
    let view = View::start(&scratch, "127.0.0.1:0");
    let runs: serde_json::Value =
        serde_json::from_str(&view.ask("GET", "/api/runs", "").1).unwrap();
    assert_eq!(runs[0]["state"], "done");
    // Equal questions are asked once.
    assert!(runs[0]["answered"].as_u64().unwrap() > 50, "{}", runs[0]);
    let done = runs[0]["done"].as_array().unwrap();
    let stages: Vec<&str> = done.iter().map(|work| work["stage"].as_str().unwrap()).collect();
    assert!(stages.contains(&"train") && stages.contains(&"generate"), "{stages:?}");
    // A second run, which finds every answer, is done too.
    scratch.bench(&["run", "x.yaml"]);
    let text = String::from_utf8(scratch.read("runs/x/progress.json")).unwrap();
    assert!(text.contains("\"ended\": \"done\""), "{text}");
}

#[test]
fn who_listens_for_others_is_warned() {
    let scratch = Scratch::new();
    scratch.bench(&["run", "x.yaml"]);
    let said = View::start(&scratch, "0.0.0.0:0").end();
    assert!(said.contains("is not a loopback address"), "{said}");
}

#[test]
fn what_cannot_be_shown_is_said_with_the_remedy() {
    let scratch = Scratch::new();
    let ran = scratch.bench(&["view"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("`reports` is no folder"), "{}", ran.err);
    std::fs::create_dir(scratch.path().join("reports")).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = scratch.bench(&["view", "--listen", &address]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("cannot listen on") && ran.err.contains("--listen"), "{}", ran.err);
}
