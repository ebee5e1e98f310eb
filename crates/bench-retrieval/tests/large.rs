//! A text file of 200 MB is read a piece at a time: beside its text, memory holds next to nothing. In
//! a test program of its own, because memory is counted per process.

use std::io::Write as _;

use bench_core::backend::{CorpusName, CorpusReader as _};
use bench_retrieval::Files;

const BYTES: usize = 200_000_000;

#[test]
fn a_text_file_of_200_megabytes_takes_little_more_memory_than_its_text() {
    let folder = tempfile::tempdir().unwrap();
    let line = "The ferry from Velm to Ashlode leaves at noon, été comme hiver.\n";
    let mut file = std::fs::File::create(folder.path().join("large.txt")).unwrap();
    let piece = line.repeat(1 << 14);
    let mut written = 0;
    while written < BYTES {
        file.write_all(piece.as_bytes()).unwrap();
        written += piece.len();
    }
    drop((file, piece));
    let name = CorpusName { root: folder.path().to_owned(), name: "large.txt".into() };
    let before = peak();
    let corpus = Files.read(&[name]).unwrap();
    assert_eq!(corpus.documents.len(), 1);
    assert_eq!(corpus.documents[0].text.len(), written);
    let (Some(before), Some(after)) = (before, peak()) else {
        return; // this system does not say
    };
    let taken = after - before;
    assert!(taken < written * 5 / 4, "{taken} bytes for a file of {written}");
}

/// Bytes of memory that this process took at most.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}
