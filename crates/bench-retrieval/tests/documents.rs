//! Corpora from files of every format, good and bad.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use bench_core::backend::{Corpus, CorpusName, CorpusReader};
use bench_retrieval::Files;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, bytes).unwrap();
        }
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read(&self, names: &[&str]) -> Result<Corpus, Vec<String>> {
        let name = |name: &&str| CorpusName { root: self.path().into(), name: (*name).into() };
        Files.read(&names.iter().map(name).collect::<Vec<_>>())
    }

    #[track_caller]
    fn check_ids(&self, names: &[&str], expect: &[&str]) -> Corpus {
        let corpus = self.read(names).unwrap();
        let ids: Vec<&str> = corpus.documents.iter().map(|found| found.id.as_str()).collect();
        assert_eq!(ids, expect);
        corpus
    }

    #[track_caller]
    fn check_problem(&self, names: &[&str], expect: &str) {
        let problems = self.read(names).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains(expect)), "{problems:#?}");
    }
}

/// What a locked PDF keeps of its passwords; no password of ours fits.
const OWNER: &str = "28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a";
const USER: &str = "0021222324252627282920212223242526272829202122232425262728292021";

/// A PDF of one page whose content stream is `content`, with a cross-reference table that fits.
fn pdf(content: &str, trailer: &str) -> Vec<u8> {
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 144] /Contents 4 0 R \
         /Resources << /Font << /F1 5 0 R >> >> >>"
            .to_owned(),
        format!("<< /Length {} >>\nstream\n{content}\nendstream", content.len()),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
            .to_owned(),
        format!("<< /Filter /Standard /V 1 /R 2 /P -4 /O <{OWNER}> /U <{USER}> >>"),
    ];
    let mut bytes = b"%PDF-1.4\n".to_vec();
    let mut starts = Vec::new();
    for (n, object) in objects.iter().enumerate() {
        starts.push(bytes.len());
        bytes.extend(format!("{} 0 obj\n{object}\nendobj\n", n + 1).into_bytes());
    }
    let table = bytes.len();
    bytes.extend(format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).into_bytes());
    for start in starts {
        bytes.extend(format!("{start:010} 00000 n \n").into_bytes());
    }
    let size = objects.len() + 1;
    bytes.extend(
        format!("trailer\n<< /Size {size} /Root 1 0 R {trailer} >>\nstartxref\n{table}\n%%EOF\n")
            .into_bytes(),
    );
    bytes
}

const WORDS: &str = "BT /F1 18 Tf 20 100 Td (The harbour of Velm was built in 1702.) Tj ET";
const LOCKED: &str =
    "/Encrypt 6 0 R /ID [<00112233445566778899aabbccddeeff> <00112233445566778899aabbccddeeff>]";

#[test]
fn every_format_becomes_documents_with_their_meta_data() {
    let folder = Folder::new(&[
        ("docs/a.txt", "Plain wörds.".as_bytes()),
        ("docs/guide/b.md", b"---\nlang: en\n---\n# Bridge\n\nIt opened in 1911."),
        ("docs/c.html", b"<title>Mill</title><p>Wheat is ground."),
        ("docs/d.jsonl", b"{\"id\":\"d1\",\"text\":\"one\",\"year\":7}\n"),
        ("docs/e.csv", b"id,text,year,code\ne1,\"two, three\",1911,007\n,four,,x\n"),
        ("docs/f.pdf", &pdf(WORDS, "")),
        ("docs/g.rst", b"Other text.\n"),
        ("docs/.hidden.txt", b"never"),
        ("docs/.git/x.txt", b"never"),
    ]);
    let expect = ["a.txt", "c.html", "d1", "e1", "e.csv:3", "f.pdf", "g.rst", "guide/b.md"];
    let corpus = folder.check_ids(&["docs"], &expect);
    assert!(corpus.skipped.is_empty());
    let [a, c, d1, e1, e2, f, _, b] = corpus.documents.as_slice() else { panic!() };
    assert_eq!((a.text.as_str(), a.meta["format"].as_str()), ("Plain wörds.", Some("text")));
    assert_eq!((c.title.as_str(), c.text.as_str()), ("Mill", "Wheat is ground."));
    assert_eq!(d1.meta["year"], 7);
    assert_eq!(
        (e1.text.as_str(), &e1.meta["year"], &e1.meta["code"]),
        ("two, three", &1911.into(), &"007".into())
    );
    assert!(!e2.meta.contains_key("year"));
    assert_eq!(f.text.trim(), "The harbour of Velm was built in 1702.");
    assert_eq!((b.title.as_str(), &b.meta["lang"]), ("Bridge", &"en".into()));
    assert_eq!(b.meta["path"], "guide/b.md");
}

#[test]
fn names_are_files_folders_and_patterns() {
    let folder = Folder::new(&[
        ("docs/a.md", b"# A"),
        ("docs/deep/er/b.md", b"# B"),
        ("docs/c.txt", b"C"),
        ("more.txt", b"D"),
    ]);
    folder.check_ids(&["docs/**/*.md"], &["a.md", "deep/er/b.md"]);
    folder.check_ids(&["docs/*.md", "more.txt"], &["a.md", "more.txt"]);
    folder.check_ids(&["docs/", "more.txt"], &["a.md", "c.txt", "deep/er/b.md", "more.txt"]);
    folder.check_problem(&["nowhere/"], "there is no file or folder `nowhere/`");
    folder.check_problem(&["docs/*.pdf"], "`docs/*.pdf` matches no file");
    folder.check_problem(&["docs/a.md", "docs/*.md"], "two documents have the id `a.md`");
}

#[test]
fn what_holds_no_text_is_skipped_by_name_in_a_folder_and_an_error_by_itself() {
    let whole = pdf(WORDS, "");
    let folder = Folder::new(&[
        ("docs/good.txt", b"good"),
        ("docs/image.png", b"\x89PNG\r\n\x1a\n\0\0\0"),
        ("docs/latin.txt", b"caf\xe9"),
        ("docs/empty.txt", b" \n"),
        ("docs/cut.pdf", &whole[..whole.len() / 2]),
        ("docs/noise.pdf", b"%PDF-1.4 and then noise"),
        ("docs/locked.pdf", &pdf(WORDS, LOCKED)),
    ]);
    let corpus = folder.check_ids(&["docs/"], &["good.txt"]);
    let skipped: Vec<String> =
        corpus.skipped.iter().map(|(file, reason)| format!("{file}: {reason}")).collect();
    assert_eq!(skipped.len(), 6, "{skipped:#?}");
    for (n, expect) in [
        "docs/cut.pdf: ",
        "docs/empty.txt: holds no text",
        "docs/image.png: binary, not text",
        "docs/latin.txt: not UTF-8 (byte 3)",
        "docs/locked.pdf: locked by a password",
        "docs/noise.pdf: a damaged PDF",
    ]
    .iter()
    .enumerate()
    {
        assert!(skipped[n].starts_with(expect), "{skipped:#?}");
    }
    folder.check_problem(
        &["docs/locked.pdf"],
        "`docs/locked.pdf` cannot be read: locked by a password",
    );
    folder.check_problem(&["docs/*.png"], "holds no document (1 files skipped)");
}

#[test]
fn a_bad_row_is_an_error_with_its_line() {
    let folder = Folder::new(&[
        ("a/x.jsonl", b"{\"id\":\"1\",\"text\":\"t\"}\nnot json\n"),
        ("b/x.csv", b"id,body\n1,t\n"),
        ("c/x.csv", b"id,text\n1,\n"),
        ("d/x.csv", b"id,text\n1,one,two\n"),
        ("e/x.csv", b"id,text\n1,one\n1,two\n"),
    ]);
    folder.check_problem(&["a/"], "a/x.jsonl, line 2: ");
    folder.check_problem(
        &["b/"],
        "b/x.csv, line 1: a column `text` is needed; the columns are: id, body",
    );
    folder.check_problem(&["c/"], "c/x.csv, line 2: a document has no text");
    folder.check_problem(&["d/"], "line: 2");
    folder.check_problem(&["e/"], "`e/x.csv`: two documents have the id `1`");
}

#[test]
fn the_digest_follows_content_and_names() {
    let folder = Folder::new(&[("docs/a.txt", b"one"), ("docs/b.txt", b"two")]);
    let digest = || folder.read(&["docs"]).unwrap().digest;
    let before = digest();
    assert_eq!(digest(), before);
    fs_err::write(folder.path().join("docs/b.txt"), "three").unwrap();
    let changed = digest();
    fs_err::remove_file(folder.path().join("docs/b.txt")).unwrap();
    assert!(changed != before && digest() != changed);
}

#[test]
fn a_letter_across_two_pieces_stays_whole() {
    let text = format!("{}é and more", "x".repeat((1 << 20) - 1));
    let folder = Folder::new(&[("big.txt", text.as_bytes())]);
    assert_eq!(folder.read(&["big.txt"]).unwrap().documents[0].text, text);
}
