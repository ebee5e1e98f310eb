use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

/// A library of one answer: arms `a` and `b` answered sample `1` of set `s`.
struct Shelf(Arc<AtomicUsize>);

struct Book;

impl Library for Shelf {
    fn open(&self, folder: &Path) -> Result<Arc<dyn Report>, String> {
        self.0.fetch_add(1, Ordering::SeqCst);
        if folder.ends_with("broken") { Err("<b>no</b>".into()) } else { Ok(Arc::new(Book)) }
    }

    fn compare(&self, a: &Path, b: &Path) -> Result<String, String> {
        if a == b { Err("they are <one>".into()) } else { Ok("<p>flips</p>".into()) }
    }

    fn style(&self) -> &'static str {
        "body {}"
    }

    fn script(&self) -> &'static str {
        "0;"
    }
}

impl Report for Book {
    fn page(&self, api: &str) -> Result<String, String> {
        Ok(format!("<p>{api}</p>"))
    }

    fn answer(&self, trial: &TrialId) -> Option<&str> {
        let is_known = trial.sample == "1" && ["a", "b"].contains(&trial.arm.as_str());
        is_known.then_some("nine")
    }
}

struct Site {
    root: tempfile::TempDir,
    address: SocketAddr,
    opened: Arc<AtomicUsize>,
}

impl Site {
    async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["reports/x y", "reports/broken", "runs/x y", "secret"] {
            fs_err::create_dir_all(root.path().join(name)).unwrap();
            fs_err::write(root.path().join(name).join("manifest.json"), "{}").unwrap();
        }
        fs_err::write(root.path().join("reports/x y/report.html"), "<script>1</script>").unwrap();
        fs_err::write(root.path().join("runs/x y/answers.jsonl"), "").unwrap();
        let folders =
            Folders::new(&root.path().join("reports"), &root.path().join("runs")).unwrap();
        let opened = Arc::new(AtomicUsize::new(0));
        let shelf = Box::new(Shelf(Arc::clone(&opened)));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::bind(any, folders, shelf).await.unwrap();
        let address = server.address();
        tokio::spawn(server.run());
        Self { root, address, opened }
    }

    /// Sends a request as it is written, and returns status and the whole answer.
    async fn send(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let host = self.address;
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
            .await
    }

    async fn post(&self, origin: &str, body: &str) -> (u16, String) {
        let (host, length) = (self.address, body.len());
        self.send(&format!("POST /api/runs/x%20y/labels HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")).await
    }
}

#[tokio::test]
async fn pages_are_served_with_rules_that_forbid_scripts_inside_them() {
    let site = Site::start().await;
    for (path, expect) in [
        ("/", "x y"),
        ("/runs/x%20y/", "/api/runs/x%20y"),
        ("/runs/x%20y/live", "x y"),
        ("/compare?a=x+y&b=broken", "<p>flips</p>"),
        ("/compare?a=x+y&b=x%20y", "they are &lt;one&gt;"),
        ("/assets/report.js", "0;"),
        ("/assets/grade.js", "labels.jsonl"),
        ("/api/runs", "\"answered\":0"),
        ("/api/runs/x%20y/labels", "[]"),
    ] {
        let (status, answer) = site.get(path).await;
        assert_eq!(status, 200, "{path}: {answer}");
        assert!(answer.contains(expect), "{path}: {answer}");
        assert!(answer.contains("script-src 'self';") && answer.contains("nosniff"), "{path}");
    }
    let (status, answer) = site.get("/runs/x%20y/files/report.html").await;
    assert_eq!(status, 200);
    assert!(answer.contains("sandbox allow-scripts") && !answer.contains("'self'"), "{answer}");
    let (status, answer) = site.get("/runs/broken/").await;
    assert_eq!(status, 500);
    assert!(answer.contains("&lt;b&gt;no"), "{answer}");
}

#[tokio::test]
async fn a_report_is_read_once_until_it_changes() {
    let site = Site::start().await;
    for _ in 0..3 {
        site.get("/runs/x%20y/").await;
    }
    assert_eq!(site.opened.load(Ordering::SeqCst), 1);
    let manifest = site.root.path().join("reports/x y/manifest.json");
    let later = SystemTime::now() + Duration::from_secs(5);
    std::fs::File::options().write(true).open(manifest).unwrap().set_modified(later).unwrap();
    site.get("/runs/x%20y/").await;
    assert_eq!(site.opened.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn no_address_leads_out_of_the_reports() {
    let site = Site::start().await;
    #[cfg(unix)]
    {
        let secret = site.root.path().join("secret");
        std::os::unix::fs::symlink(&secret, site.root.path().join("reports/link")).unwrap();
        std::os::unix::fs::symlink(&secret, site.root.path().join("reports/x y/link")).unwrap();
    }
    for path in [
        "/runs/../secret/manifest.json",
        "/runs/..%2fsecret/",
        "/runs/%2e%2e/",
        "/runs/%2e%2e%2fsecret/",
        "/runs/x%20y/files/../../secret/manifest.json",
        "/runs/x%20y/files/%2e%2e/%2e%2e/secret/manifest.json",
        "/runs/x%20y/files/..%2f..%2fsecret%2fmanifest.json",
        "/runs/x%20y/files/..%5c..%5csecret%5cmanifest.json",
        "/runs/x%20y/files/%252e%252e/secret/manifest.json",
        "/runs/x%20y/files//etc/passwd",
        "/runs/x%20y/files/%2fetc%2fpasswd",
        "/runs/x%20y/files/manifest.json%00.svg",
        "/runs/x%20y/files/link/manifest.json",
        "/runs/link/",
        "/runs/x%20y%00/",
        "/assets/../view.css",
        "/assets/..%2fview.css",
        "/compare?a=..%2fsecret&b=x+y",
        "/api/runs/..%2fsecret/labels",
    ] {
        let (status, answer) = site.get(path).await;
        assert!((400..=404).contains(&status), "{path}: {answer}");
        assert!(!answer.contains("root:"), "{path}");
    }
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let site = Site::start().await;
    let (status, answer) =
        site.send("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status, 421);
    assert!(!answer.contains("x y"), "{answer}");
    let label = r#"{"set":"s","sample":"1","arm":"a","kind":"thumbs","value":1}"#;
    for origin in ["http://evil.example", "null", "http://localhost:1"] {
        assert_eq!(site.post(origin, label).await.0, 403, "{origin}");
    }
    assert!(!site.root.path().join("reports/x y/labels.jsonl").exists());
}

#[tokio::test]
async fn a_label_is_kept_as_a_line_with_the_answer() {
    let site = Site::start().await;
    let own = format!("http://{}", site.address);
    let label = r#"{"set":"s","sample":"1","arm":"a","train_seed":"18446744073709551615","kind":"pairwise","against":"b","value":0.5,"grader":" ann "}"#;
    let (status, answer) = site.post(&own, label).await;
    assert_eq!(status, 200, "{answer}");
    let path = site.root.path().join("reports/x y/labels.jsonl");
    let labels = bench_core::label::read(&fs_err::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(labels.len(), 1);
    assert_eq!(labels[0].train_seed, u64::MAX);
    assert_eq!(labels[0].answer, "nine");
    assert_eq!((labels[0].grader.as_str(), labels[0].value), ("ann", Some(0.5)));
    for (wrong, why) in [
        (label.replace("0.5", "0.7"), "give 0, 0.5 or 1"),
        (label.replace("\"sample\":\"1\"", "\"sample\":\"2\""), "no answer to label"),
        (label.replace("\"b\"", "\"c\""), "no answer to label"),
        (label.replace("18446744073709551615", "-1"), "not a label"),
        (label.replace("grader", "path"), "unknown field"),
        ("{".into(), "EOF"),
    ] {
        let (status, answer) = site.post(&own, &wrong).await;
        assert!((400..500).contains(&status) && answer.contains(why), "{wrong:.200}: {answer}");
    }
    assert_eq!(bench_core::label::read(&fs_err::read_to_string(&path).unwrap()).unwrap().len(), 1);
    let back = label.replace("0.5", "null");
    assert_eq!(site.post(&own, &back).await.0, 200);
    assert!(site.get("/api/runs/x%20y/labels").await.1.contains("\r\n[]"));
}

#[tokio::test]
async fn a_run_that_goes_on_is_told_as_it_changes() {
    let site = Site::start().await;
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    let host = site.address;
    let request = format!("GET /api/events?run=x%20y HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut heard = String::new();
    let mut buffer = vec![0; 4096];
    let answers = site.root.path().join("runs/x y/answers.jsonl");
    for expect in ["\"answered\":0", "\"answered\":1"] {
        while !heard.contains(expect) {
            let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut buffer));
            let read = read.await.expect("nothing was heard").unwrap();
            heard.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        let line = "{\"key\":\"k\",\"value\":{\"failed\":{\"error\":\"<b>no</b>\"}}}\n";
        fs_err::write(&answers, line).unwrap();
    }
    assert!(heard.contains("text/event-stream") && heard.contains("event: runs"), "{heard}");
}
